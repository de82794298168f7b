export interface Person {
  id: number
  name: string
  room: string
  /** The connection is lost; the session waits for it. */
  away: boolean
}

export interface Said {
  /** Of the message that said it: a handler that died half way is run again, and says the same. */
  id: string
  room: string
  /** The person's `id`. */
  from: number
  name: string
  text: string
  /** Milliseconds since 1970. */
  at: number
}

/** Everybody, in all rooms. Of two such lists the one with the higher version is the newer. */
export interface People {
  version: number
  people: Person[]
}

/** What the chat's server and its pages say to each other. */
export interface Chat {
  down: {
    /** The room that was entered, and what was said there last; what is said from then on follows. */
    room: { room: string, you: number, said: Said[] }
    people: People
    said: Said
    typing: Person
  }
  up: {
    enter: (data: { room: string, name: string }) => void
    say: (data: { text: string }) => void
    typing: (data: object) => void
  }
}

type Awaitable<T> = T | Promise<T>

/** What the chat knows beyond its sessions: kept by one process, or shared by several. */
export interface Book {
  /** A number that nobody has had. */
  visitor: () => Awaitable<number>
  put: (person: Person) => Awaitable<unknown>
  remove: (person: Person) => Awaitable<unknown>
  people: () => Awaitable<People>
  write: (said: Said) => Awaitable<unknown>
  /** What was said in a room last, oldest first. */
  read: (room: string) => Awaitable<Said[]>
}
