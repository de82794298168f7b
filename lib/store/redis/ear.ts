import type { Line } from './line.js'
import type { Mirrors } from './mirrors.js'

/** Told what this process hears of sessions and messages, in the order in which it happened. */
export interface EarListener {
  /** Whether this process may have been taken for dead, so that what it hears is not for it any more. */
  fenced (): boolean
  /** Something was told to this node. */
  told (kind: string, text: string): void
  ended (id: string, reason: string): void
  /** Asks what has become of the sessions with a stream here; what was told of them may have been missed. */
  review (): Promise<void>
}

// Messages that may wait while all stands still; when there are more, all is compared once more.
const MAX_WAITING = 10_000

/**
 * Hears what is published. Mirrors grow by that alone, all of it in the one order in which it happened: a cursor that
 * moves past a position has missed nothing before it. Where something may have been missed all stand still until they
 * were compared with Redis.
 */
export class Ear {
  readonly #prefix: string
  readonly #line: Line
  readonly #mirrors: Mirrors
  readonly #listener: EarListener
  /** What is heard while all stands still. */
  #waiting: Array<readonly [channel: string, text: string]> | undefined
  #comparing = false
  #again = false
  #deaf = false
  /** The number of the last message to this node. */
  #heard = 0
  #expected = { told: 0, broadcast: 0 }

  constructor (prefix: string, line: Line, mirrors: Mirrors, listener: EarListener) {
    this.#prefix = prefix
    this.#line = line
    this.#mirrors = mirrors
    this.#listener = listener
  }

  hear (channel: string, text: string): void {
    if (this.#listener.fenced()) this.#pause()
    if (this.#waiting === undefined) this.#take(channel, text)
    else if (this.#waiting.length < MAX_WAITING) this.#waiting.push([channel, text])
    else {
      this.#waiting = []
      this.#again = true
    }
  }

  /** Told what should have been heard by the next time: what is published gets lost where a connection breaks. */
  expect (told: number, broadcast: number): void {
    const missed = this.#heard < this.#expected.told || this.#mirrors.broadcasts.log.lastPosition < this.#expected.broadcast
    this.#expected = { told, broadcast }
    // Not while that is done: where it takes longer than a tick it would never come to an end. The next tick tells what is missed by then.
    if (!this.#comparing && (missed || this.#waiting !== undefined)) this.recover()
  }

  /** What is published is not heard for a while. */
  deaf (): void {
    this.#deaf = true
    this.#pause()
  }

  /** It is heard again. */
  hearing (): void {
    this.#deaf = false
    this.recover()
  }

  /** This node has another name, and was told nothing yet. */
  restart (): void {
    this.#heard = 0
    this.#expected = { told: 0, broadcast: 0 }
    this.recover()
  }

  /** Compares all logs with Redis, and goes on from there. */
  async recover (): Promise<void> {
    this.#pause()
    this.#again = true
    if (this.#comparing) return
    this.#comparing = true
    try {
      while (this.#waiting !== undefined && !this.#listener.fenced()) {
        this.#again = false
        await this.#mirrors.compare()
        await this.#listener.review()
        if (this.#again) continue
        // What is heard after a while of deafness may lie behind what was not.
        if (this.#deaf) return
        this.#goOn()
      }
    } catch {
      // Redis is away. When it is back, or with the next tick, this is tried again.
    } finally {
      this.#comparing = false
    }
  }

  #pause (): void {
    this.#waiting ??= []
  }

  #goOn (): void {
    const messages = this.#waiting as Array<readonly [channel: string, text: string]>
    this.#waiting = undefined
    for (const [index, [channel, text]] of messages.entries()) {
      this.#take(channel, text)
      // It has shown that something is missing.
      if (this.#waiting !== undefined) {
        (this.#waiting as typeof messages).push(...messages.slice(index + 1))
        return
      }
    }
  }

  #take (channel: string, text: string): void {
    // The app's client may put something of its own before every name.
    const name = channel.slice(channel.indexOf(this.#prefix) + this.#prefix.length + 1)
    if (name.startsWith('n:')) this.#takeOwn(name.slice(2), channel, text)
    else if (name.startsWith('c:')) {
      const mirror = this.#mirrors.channels.get(name.slice(2))
      if (mirror !== undefined) this.#mirrors.take(mirror, text, 2)
    } else if (text.startsWith('b')) this.#mirrors.take(this.#mirrors.broadcasts, text, 2)
    else if (text.startsWith('k')) this.#mirrors.wentBack(Number(text.slice(2)))
    else this.#ended(text)
  }

  #takeOwn (node: string, channel: string, text: string): void {
    if (node !== this.#line.node) return
    const space = text.indexOf(' ')
    const number = Number(text.slice(0, space))
    // Something was missed; or the store has gone back, and counts from there.
    if (number !== this.#heard + 1) {
      this.#heard = number - 1
      this.recover()
      this.#waiting?.push([channel, text])
      return
    }
    this.#heard = number
    const kind = text.charAt(space + 1)
    const from = space + 3
    if (kind === 'm') this.#mirrors.advance(Number(text.slice(from)))
    else if (kind === 'e') this.#ended(text.slice(space + 1))
    else if (kind === 's') {
      const end = text.indexOf(' ', from)
      const mirror = this.#mirrors.own.get(text.slice(from, end))
      if (mirror !== undefined) this.#mirrors.take(mirror, text, end + 1)
    } else this.#listener.told(kind, text.slice(from))
  }

  #ended (text: string): void {
    const [, id = '', at = '', ...reason] = text.split(' ')
    this.#mirrors.advance(Number(at))
    this.#listener.ended(id, reason.join(' '))
  }
}
