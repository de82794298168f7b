/**
 * What an app says in both directions, shared by its server and its clients as a type:
 *
 * ```ts
 * interface Chat {
 *   down: { said: { who: string, text: string } }
 *   up: { say: (data: { text: string }) => { delivered: number } }
 * }
 * ```
 */
export interface Contract {
  /** Events that the server sends, with their data. Left out, events have every name and unknown data. */
  down?: object
  /** Events that clients send, as functions from their data to the handler's answer. Left out, likewise. */
  up?: object
}

type Down<C extends Contract> = C extends { down: infer Events } ? Events : Record<string, unknown>
type Up<C extends Contract> = C extends { up: infer Events } ? Events : Record<string, (data: unknown) => unknown>

export type DownEvent<C extends Contract> = keyof Down<C> & string
export type UpEvent<C extends Contract> = keyof Up<C> & string

/** The data of an event of the server's. */
export type DownData<C extends Contract, Event> = Event extends keyof Down<C> ? Down<C>[Event] : never

/** An event of the server's with its data: a union, of which the name tells the data. */
export type Received<C extends Contract = Contract> = {
  [Event in DownEvent<C>]: { readonly event: Event, readonly data: DownData<C, Event> }
}[DownEvent<C>]

/** The data of an event that clients send. */
export type UpData<C extends Contract, Event> = Event extends keyof Up<C>
  ? Up<C>[Event] extends (data: infer Data) => unknown ? Data : never
  : never

/** What the server answers to it. */
export type UpAnswer<C extends Contract, Event> = Event extends keyof Up<C>
  ? Up<C>[Event] extends (data: never) => infer Answer ? Awaited<Answer> : never
  : never
