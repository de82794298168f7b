export interface Person {
  id: number
  name: string
  room: string
  /** The connection is lost; the session waits for it. */
  away: boolean
}

export interface Said {
  /** The person's `id`. */
  from: number
  name: string
  text: string
  /** Milliseconds since 1970. */
  at: number
}

/** What the chat's server and its pages say to each other. */
export interface Chat {
  down: {
    /** The room that was entered, and what was said there last; what is said from then on follows. */
    room: { room: string, you: number, said: Said[] }
    /** Everybody, in all rooms. */
    people: Person[]
    said: Said
    typing: Person
  }
  up: {
    enter: (data: { room: string, name: string }) => void
    say: (data: { text: string }) => void
    typing: (data: object) => void
  }
}
