import type { StoreSettings } from '../store.js'
import type { Link } from './client.js'
import type { Line } from './line.js'
import { Mirror, parsePublished, type Rest } from './mirror.js'
import type { Scripts } from './scripts.js'

/** Told what this process hears of sessions and messages, in the order in which it happened. */
export interface MirrorsListener {
  broadcast (): void
  /** Whether this process may have been taken for dead, so that what it hears is not for it any more. */
  fenced (): boolean
  /** Something was told to this node. */
  told (kind: string, text: string): void
  ended (id: string, reason: string): void
  /** The stream of an epoch is not the session's any more. */
  replaced (id: string, epoch: number): void
  /** Asks what has become of the sessions with a stream here; what was told of them may have been missed. */
  review (): Promise<void>
}

type Read = readonly [rests: ReadonlyArray<Rest | null>, head: string, back: string]

interface Wait {
  readonly position: number
  readonly run: () => void
}

// Logs read at once; and messages that may wait until that is done: when there are more, all is read once more.
const CHUNK = 500
const MAX_WAITING = 10_000

/**
 * The logs that streams of this process read. They grow by what is published alone, all of it in the one order in
 * which it happened: a cursor that moves past a position has missed nothing before it. Where something may have been
 * missed all stand still until they were compared with Redis.
 */
export class Mirrors {
  readonly broadcasts: Mirror
  readonly channels = new Map<string, Mirror>()
  readonly own = new Map<string, Mirror>()
  /** The position up to which all mirrors have everything. */
  point = 0
  /** Entries up to here may have been lost by the store. */
  back = 0
  readonly #settings: StoreSettings
  readonly #link: Link
  readonly #line: Line
  readonly #scripts: Scripts
  readonly #prefix: string
  readonly #listener: MirrorsListener
  #waits: Wait[] = []
  /** What is heard while all stands still. */
  #waiting: Array<readonly [channel: string, text: string]> | undefined
  #comparing = false
  #again = false
  #isDeaf = false
  /** How often it was. */
  #deaf = 0
  /** The number of the last message to this node. */
  #heard = 0
  #expected = { told: 0, broadcast: 0 }

  constructor (settings: StoreSettings, link: Link, line: Line, scripts: Scripts, prefix: string, listener: MirrorsListener) {
    this.#settings = settings
    this.#link = link
    this.#line = line
    this.#scripts = scripts
    this.#prefix = prefix
    this.#listener = listener
    this.broadcasts = new Mirror(settings.channelLog, { wake: () => { listener.broadcast() } })
  }

  /** The names of what is published on. */
  get subscriptions (): string[] {
    return [`${this.#prefix}:all`, `${this.#prefix}:n:${this.#line.node}`, ...this.#names(this.channels.keys())]
  }

  /** Loads the log of broadcasts. */
  async start (): Promise<void> {
    await this.#load([this.broadcasts], ['b', '', 0, 0])
  }

  readonly message = (channel: string, text: string): void => {
    if (this.#listener.fenced()) this.pause()
    if (this.#waiting === undefined) this.#hear(channel, text)
    else if (this.#waiting.length < MAX_WAITING) this.#waiting.push([channel, text])
    else {
      this.#waiting = []
      this.#again = true
    }
  }

  /** The mirror of a session's own log, which is to be filled where it is new. */
  expectLog (id: string): Mirror {
    let mirror = this.own.get(id)
    if (mirror === undefined) {
      mirror = new Mirror(this.#settings.log)
      this.own.set(id, mirror)
    }
    return mirror
  }

  /** Opens a mirror that was filled. */
  open (mirror: Mirror): void {
    mirror.log.forget(this.back, 'store')
    if (!mirror.open()) this.recover()
  }

  /** Has mirrors of all these channels; answers with the position that has to be reached before they are read. */
  async ensure (names: Iterable<string>): Promise<number> {
    const fresh: string[] = []
    const wanted: Mirror[] = []
    for (const name of names) {
      let mirror = this.channels.get(name)
      if (mirror === undefined) {
        mirror = new Mirror(this.#settings.channelLog)
        this.channels.set(name, mirror)
        fresh.push(name)
      }
      wanted.push(mirror)
    }
    if (fresh.length > 0) {
      const mirrors = fresh.map(name => this.channels.get(name) as Mirror)
      const loaded = this.#link.subscribe(this.#names(fresh)).then(() => this.#load(mirrors, fresh.flatMap(name => ['c', name, 0, 0])))
      loaded.catch(() => { for (const name of fresh) this.#forget(name) })
      for (const mirror of mirrors) mirror.loaded = loaded
    }
    let needed = 0
    for (const mirror of wanted) {
      await mirror.loaded
      needed = Math.max(needed, mirror.loadedAt)
    }
    return needed
  }

  /** Told what should have been heard by the next time: what is published gets lost where a connection breaks. */
  expect (told: number, broadcast: number): void {
    const missed = this.#heard < this.#expected.told || this.broadcasts.log.last < this.#expected.broadcast
    this.#expected = { told, broadcast }
    if (missed || this.#waiting !== undefined) this.recover()
  }

  /** Lets go of channels that nobody here reads. */
  sweep (): void {
    for (const [name, mirror] of this.channels) if (mirror.readers.size === 0 && !mirror.loading) this.#forget(name)
  }

  /** Calls back when everything up to a position is here. */
  when (position: number, run: () => void): void {
    if (position <= this.point) run()
    else this.#waits.push({ position, run })
  }

  /** The store has lost what it had after some position before this one. */
  wentBack (position: number): void {
    if (position <= this.back) return
    this.back = position
    for (const mirror of this.#all()) mirror.log.forget(position, 'store')
    this.#advance(position)
    for (const mirror of this.#all()) mirror.log.listener.wake()
  }

  /** Nothing is taken in until `recover` has found out what was missed. */
  pause (): void {
    this.#waiting ??= []
  }

  /** What is published is not heard for a while. */
  deaf (): void {
    this.#isDeaf = true
    this.#deaf++
    this.pause()
  }

  /** It is heard again. */
  hearing (): void {
    this.#isDeaf = false
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
    this.pause()
    this.#again = true
    if (this.#comparing) return
    this.#comparing = true
    try {
      while (this.#waiting !== undefined && !this.#listener.fenced()) {
        this.#again = false
        await this.#compare()
        await this.#listener.review()
        if (this.#again) continue
        // What is heard after a while of deafness may lie behind what was not.
        if (this.#isDeaf) return
        this.#goOn()
      }
    } catch {
      // Redis is away. When it is back, or with the next tick, this is tried again.
    } finally {
      this.#comparing = false
    }
  }

  async #compare (): Promise<void> {
    const logs: Array<readonly [kind: string, name: string, mirror: Mirror, epoch: number]> = [['b', '', this.broadcasts, 0]]
    for (const [name, mirror] of this.channels) logs.push(['c', name, mirror, 0])
    for (const [id, mirror] of this.own) for (const { attached } of mirror.readers) logs.push(['s', id, mirror, attached])
    const ready = logs.filter(([, , mirror]) => !mirror.loading)
    const found: Array<readonly [Mirror, Rest]> = []
    const lost: Array<readonly [id: string, epoch: number]> = []
    let through = 0
    for (let from = 0; from < ready.length; from += CHUNK) {
      const chunk = ready.slice(from, from + CHUNK)
      const { rests, head } = await this.#read(chunk.flatMap(([kind, name, { log }, epoch]) => [kind, name, log.last, epoch]))
      // Each chunk is read a moment later. All are taken as of the first, and what came since as it is published.
      if (from === 0) through = head
      for (const [index, [, name, mirror, epoch]] of chunk.entries()) {
        const rest = rests[index]
        if (rest == null) lost.push([name, epoch])
        else found.push([mirror, rest])
      }
    }
    // Not a word more to streams that are not the sessions' any longer.
    for (const [id, epoch] of lost) this.#listener.replaced(id, epoch)
    for (const [mirror, rest] of found) mirror.fill(rest, through, this.#line.offset)
    this.#advance(through)
    for (const [mirror] of found) mirror.log.listener.wake()
  }

  #goOn (): void {
    const messages = this.#waiting ?? []
    this.#waiting = undefined
    for (const [index, [channel, text]] of messages.entries()) {
      this.#hear(channel, text)
      // It has shown that something is missing.
      if (this.#waiting !== undefined) {
        (this.#waiting as typeof messages).push(...messages.slice(index + 1))
        return
      }
    }
  }

  #hear (channel: string, text: string): void {
    // The app's client may put something of its own before every name.
    const name = channel.slice(channel.indexOf(this.#prefix) + this.#prefix.length + 1)
    if (name.startsWith('n:')) this.#hearNode(name.slice(2), channel, text)
    else if (name.startsWith('c:')) {
      const mirror = this.channels.get(name.slice(2))
      if (mirror !== undefined) this.#take(mirror, text, 2)
    } else if (text.startsWith('b')) this.#take(this.broadcasts, text, 2)
    else if (text.startsWith('k')) this.wentBack(Number(text.slice(2)))
    else this.#ended(text)
  }

  #hearNode (node: string, channel: string, text: string): void {
    if (node !== this.#line.node) return
    const space = text.indexOf(' ')
    const number = Number(text.slice(0, space))
    if (number <= this.#heard) return
    const missed = number > this.#heard + 1
    if (missed) {
      this.#heard = number - 1
      this.recover()
      this.#waiting?.push([channel, text])
      return
    }
    this.#heard = number
    const kind = text.charAt(space + 1)
    const from = space + 3
    if (kind === 'm') this.#advance(Number(text.slice(from)))
    else if (kind === 'e') this.#ended(text.slice(space + 1))
    else if (kind === 's') {
      const end = text.indexOf(' ', from)
      const mirror = this.own.get(text.slice(from, end))
      if (mirror !== undefined) this.#take(mirror, text, end + 1)
    } else this.#listener.told(kind, text.slice(from))
  }

  #ended (text: string): void {
    const [, id = '', at = '', ...reason] = text.split(' ')
    this.#advance(Number(at))
    this.#listener.ended(id, reason.join(' '))
  }

  #take (mirror: Mirror, text: string, from: number): void {
    const entry = parsePublished(text, from)
    if (!mirror.take(entry)) {
      this.recover()
      return
    }
    this.#line.seen = Math.max(this.#line.seen, entry.position)
    this.#advance(entry.position)
  }

  #advance (position: number): void {
    this.point = Math.max(this.point, position)
    if (this.#waits.length === 0) return
    const waits = this.#waits
    this.#waits = []
    for (const wait of waits) this.when(wait.position, wait.run)
  }

  async #load (mirrors: readonly Mirror[], what: ReadonlyArray<string | number>): Promise<void> {
    const deaf = this.#deaf
    const { rests, head } = await this.#read(what)
    for (const [index, mirror] of mirrors.entries()) {
      mirror.fill(rests[index] as Rest, head, this.#line.offset)
      mirror.loadedAt = head
      this.open(mirror)
    }
    if (deaf !== this.#deaf) this.recover()
  }

  async #read (what: ReadonlyArray<string | number>): Promise<{ rests: ReadonlyArray<Rest | null>, head: number }> {
    const [rests, head, back] = await this.#line.run(this.#scripts.read, ...what) as Read
    this.#line.seen = Math.max(this.#line.seen, Number(head))
    this.wentBack(Number(back))
    return { rests, head: Number(head) }
  }

  #forget (name: string): void {
    this.channels.delete(name)
    this.#link.unsubscribe(this.#names([name]))
  }

  #names (channels: Iterable<string>): string[] {
    return [...channels].map(name => `${this.#prefix}:c:${name}`)
  }

  * #all (): Iterable<Mirror> {
    yield this.broadcasts
    yield * this.channels.values()
    yield * this.own.values()
  }
}
