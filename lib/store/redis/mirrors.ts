import { TrimGuard } from '../trim-guard.js'
import type { StoreSettings } from '../store.js'
import type { Link } from './client.js'
import type { Line } from './line.js'
import { Mirror, parsePublished, type Rest } from './mirror.js'
import type { RedisState } from './record.js'

export interface MirrorsListener {
  broadcast (): void
  /** A session, with a stream here of an epoch, has a version; none where the stream is not its stream any more. */
  found (state: RedisState, epoch: number, version: number | undefined): void
  /** Something may be missing. */
  doubt (): void
  /** The store has gone back to an earlier state: what is known of sessions may be of what it has lost. */
  wentBack (): void
}

type Read = readonly [rests: ReadonlyArray<Rest | null>, head: string, back: string]

interface Wait {
  readonly position: number
  readonly run: () => void
}

// Logs that are read at once.
const CHUNK = 500

/** The logs in Redis that streams of this process read. */
export class Mirrors {
  readonly broadcasts: Mirror<RedisState>
  readonly channels = new Map<string, Mirror<RedisState>>()
  readonly own = new Map<string, Mirror<RedisState>>()
  /** The position up to which all mirrors have everything. */
  point = 0
  /** Entries up to here may have been lost by the store. */
  back = 0
  readonly #settings: StoreSettings
  readonly #link: Link
  readonly #line: Line
  readonly #prefix: string
  readonly #listener: MirrorsListener
  readonly #offer = new TrimGuard()
  #waits: Wait[] = []
  /** How often all were compared with Redis. */
  #compared = 0

  constructor (settings: StoreSettings, link: Link, line: Line, prefix: string, listener: MirrorsListener) {
    this.#settings = settings
    this.#link = link
    this.#line = line
    this.#prefix = prefix
    this.#listener = listener
    this.broadcasts = new Mirror(settings.channelLog, 0, { onAppend: () => { listener.broadcast() } })
  }

  /** The names of what is published on. */
  get subscriptions (): string[] {
    const { node } = this.#line
    return [`${this.#prefix}:all`, ...node === '' ? [] : [`${this.#prefix}:n:${node}`], ...this.#names(this.channels.keys())]
  }

  /** The sessions with a stream here. */
  get attached (): RedisState[] {
    return [...this.own.values()].flatMap(({ readers }) => [...readers])
  }

  /** Loads the log of broadcasts. */
  async start (): Promise<void> {
    await this.#load([this.broadcasts], ['b', '', 0, 0, 0])
  }

  /** The mirror of a session's own log, which is to be filled where it is new. */
  expectLog (id: string): Mirror<RedisState> {
    let mirror = this.own.get(id)
    if (mirror === undefined) {
      mirror = new Mirror(this.#settings.log, this.#compared)
      this.own.set(id, mirror)
    }
    return mirror
  }

  /** Opens a mirror that was filled. */
  open (mirror: Mirror<RedisState>): void {
    mirror.log.markTrimmed(this.back, 'store')
    const whole = mirror.open()
    // Where all were compared meanwhile, this one was not.
    if (!whole || mirror.compared !== this.#compared) this.#listener.doubt()
  }

  /** Has mirrors of channels that a session reads, or of all of them; answers with the position that has to be reached before they are read. */
  async ensure (reader: RedisState, some?: readonly string[]): Promise<number> {
    // It may have no stream any more.
    const names = reader.log === undefined ? [] : some ?? [...reader.members.keys(), ...reader.left.map(({ channel }) => channel)]
    const fresh: string[] = []
    const wanted: Mirror<RedisState>[] = []
    for (const name of names) {
      let mirror = this.channels.get(name)
      if (mirror === undefined) {
        mirror = new Mirror(this.#settings.channelLog, this.#compared)
        this.channels.set(name, mirror)
        fresh.push(name)
      }
      // From now on, so that none is let go of while others are loaded.
      mirror.readers.add(reader)
      reader.reads.add(mirror)
      wanted.push(mirror)
    }
    if (fresh.length > 0) {
      const mirrors = fresh.map(name => this.channels.get(name) as Mirror<RedisState>)
      const loaded = this.#link.subscribe(this.#names(fresh)).then(() => this.#load(mirrors, fresh.flatMap(name => ['c', name, 0, 0, 0])))
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

  /** Lets go of channels that nobody here reads. */
  sweep (): void {
    for (const [name, mirror] of this.channels) if (mirror.readers.size === 0 && !mirror.loading) this.#forget(name)
  }

  /** Takes an entry that was published, which is told from an index of a text on. */
  take (mirror: Mirror<RedisState>, text: string, from: number): void {
    const entry = parsePublished(text, from)
    this.#offer.beforeAppend(mirror.log, entry, this.point)
    if (!mirror.take(entry)) {
      this.#listener.doubt()
      return
    }
    this.#line.seen = Math.max(this.#line.seen, entry.position)
    this.advance(entry.position)
  }

  /** Everything up to a position is here. */
  advance (position: number): void {
    this.point = Math.max(this.point, position)
    if (this.#waits.length === 0) return
    const waits = this.#waits
    this.#waits = []
    for (const wait of waits) this.when(wait.position, wait.run)
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
    for (const mirror of this.#all()) mirror.log.markTrimmed(position, 'store')
    this.advance(position)
    for (const mirror of this.#all()) mirror.log.listener.onAppend()
    this.#listener.wentBack()
  }

  /** Has all mirrors be as Redis has the logs now. */
  async compare (): Promise<void> {
    this.#compared++
    const logs: Array<readonly [kind: string, name: string, mirror: Mirror<RedisState>, epoch: number, reader?: RedisState]> = [['b', '', this.broadcasts, 0]]
    for (const [name, mirror] of this.channels) logs.push(['c', name, mirror, 0])
    for (const [id, mirror] of this.own) for (const reader of mirror.readers) logs.push(['s', id, mirror, reader.attached, reader])
    const ready = logs.filter(([, , mirror]) => !mirror.loading)
    const found: Array<readonly [Mirror<RedisState>, Rest]> = []
    let through = 0
    for (let from = 0; from < ready.length; from += CHUNK) {
      const chunk = ready.slice(from, from + CHUNK)
      const { rests, head } = await this.#read(chunk.flatMap(([kind, name, { log, newest }, epoch]) => [kind, name, log.lastPosition, newest, epoch]))
      // Each chunk is read a moment later. All are taken as of the first, and what came since as it is published.
      if (from === 0) through = head
      for (const [index, [, , mirror, epoch, reader]] of chunk.entries()) {
        const rest = rests[index] ?? undefined
        // Before there is more to read: it may not be for this stream, or not be all that is.
        if (reader !== undefined) this.#listener.found(reader, epoch, rest === undefined ? undefined : Number(rest[4]))
        if (rest !== undefined) found.push([mirror, rest])
      }
    }
    for (const [mirror, rest] of found) mirror.fill(rest, through, this.#line.offset)
    this.#offer.reset()
    this.advance(through)
    for (const [mirror] of found) mirror.log.listener.onAppend()
  }

  async #load (mirrors: readonly Mirror<RedisState>[], what: ReadonlyArray<string | number>): Promise<void> {
    const { rests, head } = await this.#read(what)
    for (const [index, mirror] of mirrors.entries()) {
      mirror.fill(rests[index] as Rest, head, this.#line.offset)
      mirror.loadedAt = head
      this.open(mirror)
    }
  }

  async #read (what: ReadonlyArray<string | number>): Promise<{ rests: ReadonlyArray<Rest | null>, head: number }> {
    const [rests, head, back] = await this.#line.run('read', ...what) as Read
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

  * #all (): Iterable<Mirror<RedisState>> {
    yield this.broadcasts
    yield * this.channels.values()
    yield * this.own.values()
  }
}
