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

/** All people in all rooms. Of two lists, the one with the higher version is newer. */
export interface PeopleList {
  version: number
  people: Person[]
}

/** The events and messages that the server and the page exchange. */
export interface Chat {
  down: {
    /** The room that the session entered, and its latest messages. New messages follow as `message` events. */
    room: { room: string, you: number, messages: ChatMessage[] }
    people: PeopleList
    message: ChatMessage
    typing: Person
  }
  up: {
    enter: (data: { room: string, name: string }) => void
    send: (data: { text: string }) => void
    typing: (data: object) => void
  }
}

type Awaitable<T> = T | Promise<T>

/** What the chat stores outside its sessions. One process keeps it in memory, several processes share it. */
export interface ChatState {
  /** Returns an id that no other person has. */
  nextPersonId: () => Awaitable<number>
  setPerson: (person: Person) => Awaitable<unknown>
  removePerson: (person: Person) => Awaitable<unknown>
  listPeople: () => Awaitable<PeopleList>
}
