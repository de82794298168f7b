/**
 * What an app says in both directions, shared by its server and its clients as a type, for `withContract` and `connect`:
 *
 * ```ts
 * interface Chat {
 *   down: { said: { who: string, text: string }, cleared: void }
 *   up: { say: (data: { text: string }) => { delivered: number }, clear: () => void }
 * }
 * ```
 */
export interface Contract {
  /** Events that the server sends, with their data, which is JSON; `void` for none, which arrives as `null`. Left out, events have every name and unknown data. */
  down?: object
  /** Events that clients send, as functions from their data to the handler's answer. Left out, likewise. */
  up?: object
}

type Down<C extends Contract> = C extends { down: infer Events } ? Events : Record<string, unknown>
type Up<C extends Contract> = C extends { up: infer Events } ? Events : Record<string, (data: unknown) => unknown>

/** The names of the events that the server sends. */
export type DownEvent<C extends Contract> = keyof Down<C> & string

/** The names of the events that clients send. */
export type UpEvent<C extends Contract> = keyof Up<C> & string

/** The data of an event of the server's; `never` for one that the contract does not have. */
export type DownData<C extends Contract, Event> = Event extends keyof Down<C> ? Down<C>[Event] : never

/** An event of the server's with its data: a union, of which the name tells the data. */
export type Received<C extends Contract = Contract> = {
  [Event in DownEvent<C>]: { readonly event: Event, readonly data: DownData<C, Event> }
}[DownEvent<C>]

/** The data of an event that clients send; `never` for one that the contract does not have. */
export type UpData<C extends Contract, Event> = Event extends keyof Up<C>
  ? Up<C>[Event] extends (...data: infer Data) => unknown ? Data[0] : never
  : never

/** What the server answers to it: what the handler returns, awaited. */
export type UpAnswer<C extends Contract, Event> = Event extends keyof Up<C>
  ? Up<C>[Event] extends (data: never) => infer Answer ? Awaited<Answer> : never
  : never

/** The arguments after an event's name: its data, which may be left out where it may be `undefined`, then others. */
export type Payload<Data, Others extends unknown[] = []> = undefined extends Data ? [data?: Data, ...Others] : [data: Data, ...Others]
