import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { get, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { constants, createGunzip } from 'node:zlib'
import { createParser } from 'eventsource-parser'
import type { Test } from 'tap'
import { Agent, fetch as undiciFetch } from 'undici'
import { needsChromium, openContext } from '../../support/browser.js'
import { trackProcess } from '../../support/child-process.js'
import { eventSources } from '../../support/event-sources.js'
import { connectHttp2 } from '../../support/http2.js'
import { needsProgram } from '../../support/needs-program.js'

export interface DecodedEvent {
  readonly event: string
  readonly data: unknown
  readonly id: string | undefined
}

/** A program or library that decodes a compressed stream. */
export interface Decoder {
  readonly name: string
  /** Options of a test, for a decoder that may not be installed. */
  readonly needs?: { skip?: string }
  /** Whether it opens a lost stream again. */
  readonly reconnects?: boolean
  readonly usesHttp2?: boolean
  /** Opens a stream, and calls `onEvent` for each of its events. `ended` settles at the end of the stream, and rejects if the decoder reports an error. */
  open (t: Test, url: string, onEvent: (event: DecodedEvent) => void): Promise<{ ended?: Promise<unknown> }>
}

// Debian installs Python packages for this interpreter.
const PYTHON = '/usr/bin/python3'

const GUNZIP = { flush: constants.Z_SYNC_FLUSH, finishFlush: constants.Z_SYNC_FLUSH }

/** Parses text that arrives in parts. */
function createFeed (onEvent: (event: DecodedEvent) => void): (bytes: Uint8Array) => void {
  const parser = createParser({ onEvent: ({ event = 'message', data, id }) => { onEvent({ event, data: JSON.parse(data), id }) } })
  const decoder = new TextDecoder()
  return bytes => { parser.feed(decoder.decode(bytes, { stream: true })) }
}

/** Reads the body of a fetch. */
async function readBody (body: AsyncIterable<Uint8Array> | null, feed: (bytes: Uint8Array) => void): Promise<void> {
  for await (const bytes of body ?? []) feed(bytes)
}

function fetchDecoder (name: string, fetch: (t: Test, url: string) => Promise<{ body: AsyncIterable<Uint8Array> | null }>): Decoder {
  return {
    name,
    open: async (t, url, onEvent) => ({ ended: readBody((await fetch(t, url)).body, createFeed(onEvent)) })
  }
}

function programDecoder (name: string, needs: { skip?: string }, command: readonly [program: string, ...args: string[]]): Decoder {
  return {
    name,
    needs,
    open: async (t, url, onEvent) => {
      const [program, ...args] = command
      const feed = createFeed(onEvent)
      const { process, output } = trackProcess(t, spawn(program, [...args, url], { detached: true }), name)
      process.stdout.on('data', (text: string) => { feed(Buffer.from(text)) })
      return {
        ended: once(process, 'close').then(([code]) => {
          if (code !== 0) throw new Error(`${name} exits with ${code}; it printed: ${output().slice(-500)}`)
        })
      }
    }
  }
}

/** Reads a stream as the clients of Go do: the transport requests gzip and decodes it. It reports the missing trailer as ErrUnexpectedEOF. */
const GO_SOURCE = `package main

import (
  "errors"
  "io"
  "net/http"
  "os"
)

func main() {
  response, err := http.Get(os.Args[1])
  if err == nil {
    _, err = io.Copy(os.Stdout, response.Body)
  }
  if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
    println(err.Error())
    os.Exit(1)
  }
}
`

/** Compiles a Go program. Resolves with its path. */
async function buildGo (t: Test): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'go-decoder-'))
  t.teardown(() => { rmSync(folder, { recursive: true }) })
  writeFileSync(join(folder, 'main.go'), GO_SOURCE)
  await promisify(execFile)('go', ['build', '-o', join(folder, 'decoder'), join(folder, 'main.go')])
  return join(folder, 'decoder')
}

/** The names of the events of the test, which an EventSource needs in advance. */
const EVENTS = ['welcome', 'heartbeat', 'message', 'tick', 'gap', 'close']

export const DECODERS: readonly Decoder[] = [
  {
    name: 'node:http and node:zlib',
    open: async (_t, url, onEvent) => {
      const [response] = await once(get(url, { headers: { 'accept-encoding': 'gzip' } }), 'response') as [IncomingMessage]
      return { ended: readBody(response.pipe(createGunzip(GUNZIP)), createFeed(onEvent)) }
    }
  },
  {
    name: 'HTTP/2',
    usesHttp2: true,
    open: async (t, url, onEvent) => {
      const { port, pathname, search } = new URL(url)
      const stream = connectHttp2(t, { port: Number(port) }).request({ ':path': pathname + search, 'accept-encoding': 'gzip' })
      return { ended: readBody(stream.pipe(createGunzip(GUNZIP)), createFeed(onEvent)) }
    }
  },
  fetchDecoder('fetch of Node', async (_t, url) => await fetch(url)),
  fetchDecoder('fetch of undici', async (t, url) => {
    const dispatcher = new Agent({ bodyTimeout: 0 })
    t.teardown(() => dispatcher.destroy())
    return await undiciFetch(url, { dispatcher })
  }),
  ...eventSources.map(([name, openSource]): Decoder => ({
    name: `EventSource of ${name}`,
    reconnects: true,
    open: async (t, url, onEvent) => {
      const source = openSource(t, url)
      for (const event of EVENTS) source.addEventListener(event, ({ data, lastEventId }) => { onEvent({ event, data: JSON.parse(String(data)), id: String(lastEventId) }) })
      return {}
    }
  })),
  programDecoder('curl', needsProgram('curl'), ['curl', '--silent', '--show-error', '--compressed', '--no-buffer']),
  programDecoder('Python with requests', needsProgram('requests', `${PYTHON} -c "import requests"`), [PYTHON, '-c', `
import sys, requests
with requests.get(sys.argv[1], stream=True) as response:
    for chunk in response.iter_content(chunk_size=None):
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
`]),
  programDecoder('Python with httpx', needsProgram('httpx', `${PYTHON} -c "import httpx"`), [PYTHON, '-c', `
import sys, httpx
with httpx.stream('GET', sys.argv[1], timeout=None) as response:
    for chunk in response.iter_bytes():
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
`]),
  {
    name: 'Go with net/http',
    needs: needsProgram('go', 'go version'),
    open: async (t, url, onEvent) => await programDecoder('Go', {}, [await buildGo(t)]).open(t, url, onEvent)
  },
  {
    name: 'EventSource of Chromium',
    needs: needsChromium,
    reconnects: true,
    open: async (t, url, onEvent) => {
      const page = await (await openContext(t)).newPage()
      await page.goto(new URL('/page', url).href)
      await page.exposeFunction('onEvent', (event: string, data: string, id: string) => { onEvent({ event, data: JSON.parse(data), id }) })
      await page.evaluate(`
        const source = new EventSource(${JSON.stringify(url)})
        for (const type of ${JSON.stringify(EVENTS)}) source.addEventListener(type, ({ data, lastEventId }) => { onEvent(type, data, lastEventId) })
      `)
      return {}
    }
  }
]
