export interface Person {
  id: number
  name: string
  room: string
  /** Whether the session of this person is disconnected. It stays open for the resume timeout. */
  away: boolean
}

export interface ChatMessage {
  /** Derived from the id of the message that the client sent: a handler that runs again after a crash creates the same id. */
  id: string
  room: string
  /** The `id` of the person who sent it. */
  from: number
  name: string
  text: string
  /** Milliseconds since 1970. */
  at: number
}

export interface Nudged {
  /** Whether the page is in the foreground. */
  isVisible: boolean
}

/** The events and messages that the server and the page exchange. */
export interface Chat {
  down: {
    /** The room that the session entered, its latest messages, and the people in all rooms. Changes follow as the other events. */
    room: { room: string, you: number, messages: ChatMessage[], people: Person[] }
    /** A person has entered a room, or has become present or away. */
    person: Person
    left: Person
    message: ChatMessage
    typing: Person
  }
  up: {
    enter: (data: { room: string, name: string }) => void
    send: (data: { text: string }) => void
    typing: (data: object) => void
    /** Nudges the person with this `id`. Returns what their page answers. */
    nudge: (data: { id: number }) => Nudged
  }
  requests: {
    nudge: (data: { from: string }) => Nudged
  }
}
