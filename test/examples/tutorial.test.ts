import t from 'tap'
import { eventSources } from '../support/eventsources.js'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { signal, within } from '../support/wait.js'

const TIME_OF_DAY = /^\d{1,2}:\d{2}:\d{2}/

t.test('an app without handlers sends the welcome and echoes each message', async t => {
  const { url } = await serve(t)
  const stream = await openStream(t, url)
  t.equal(stream.status, 200)
  const [welcome] = stream.events
  t.match(welcome?.data, { sessionId: stream.sessionId, resumed: false, text: 'Welcome to the chat!', timestamp: TIME_OF_DAY })
  const response = await post(url, stream.sessionId, { text: 'hi' })
  t.equal(response.status, 201)
  t.strictSame(response.body, { status: 'Message sent successfully' })
  t.equal(response.headers['x-session-connected'], 'true')
  const message = await stream.waitFor(({ event }) => event === 'message')
  t.match(message.data, { text: 'Data received: hi', timestamp: TIME_OF_DAY })
})

t.test('the echo rejects a message without text', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  const response = await post(url, sessionId, { nothing: 1 })
  t.equal(response.status, 400)
  t.match(response.body, { statusCode: 400, code: 'FST_SSE_TEXT_MISSING' })
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} receives the welcome and the echo`, async t => {
    const { url } = await serve(t)
    const source = open(t, `${url}/downward`)
    const welcome = signal<string>()
    const message = signal<string>()
    source.addEventListener('welcome', ({ data }) => { welcome.resolve(String(data)) })
    source.addEventListener('message', ({ data }) => { message.resolve(String(data)) })
    const { sessionId } = JSON.parse(await within(welcome.promise, 'the welcome')) as { sessionId: string }
    await post(url, sessionId, { text: 'hello' })
    t.match(JSON.parse(await within(message.promise, 'the echo')), { text: 'Data received: hello' })
  })
}

t.test('a hand-written fetch reader receives the welcome and the echo', async t => {
  const { url } = await serve(t)
  const abortController = new AbortController()
  const response = await fetch(`${url}/downward`, { signal: abortController.signal })
  t.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8')
  const sessionId = response.headers.get('x-session-id') ?? ''
  await post(url, sessionId, { text: 'by hand' })
  let text = ''
  const decoder = new TextDecoder()
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk as Uint8Array, { stream: true })
    if (text.includes('by hand')) break
  }
  abortController.abort()
  const [welcome = '', message = ''] = text.split('\n\n').map(block => /^data: (.*)$/m.exec(block)?.[1])
  t.match(JSON.parse(welcome), { sessionId, text: 'Welcome to the chat!' })
  t.match(JSON.parse(message), { text: 'Data received: by hand' })
})
