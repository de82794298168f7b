/**
 * A type for all events that the server sends and all messages that clients send. The server uses it in `withContract`, the
 * clients in `connect`:
 *
 * ```ts
 * interface Chat {
 *   down: { said: { who: string, text: string }, cleared: void }
 *   up: { say: (data: { text: string }) => { delivered: number }, clear: () => void }
 *   requests: { confirm: (data: { text: string }) => boolean }
 * }
 * ```
 */
export interface Contract {
  /** The events that the server sends: the type of the data of each, which is sent as JSON. An event without data has the type `void`; clients receive `null`. Default: all names, with unknown data. */
  down?: object
  /** The messages that clients send: for each event name a function type, whose argument is the data and whose result is the response of the handler. Default: all names, with unknown data. */
  up?: object
  /** The requests that the server sends: for each event name a function type, whose argument is the data and whose result is the answer of the client. Default: all names, with unknown data. */
  requests?: object
}

type Down<C extends Contract> = C extends { down: infer Events } ? Events : Record<string, unknown>
type Up<C extends Contract> = C extends { up: infer Messages } ? Messages : Functions
type Functions = Record<string, (data: unknown) => unknown>
type DataOf<F> = F extends (...args: infer Args) => unknown ? Args[0] : never
type Requests<C extends Contract> = C extends { requests: infer Events } ? Events : Functions

/** The names of the events that the server sends. */
export type DownEvent<C extends Contract> = keyof Down<C> & string

/** The names of the events that the server can send without data. */
export type EmptyDownEvent<C extends Contract> = { [Event in DownEvent<C>]: undefined extends DownData<C, Event> ? Event : never }[DownEvent<C>]

/** The event names of the messages that clients send. */
export type UpEvent<C extends Contract> = keyof Up<C> & string

/** The data of an event that the server sends; `never` if the contract does not contain the event. */
export type DownData<C extends Contract, Event> = Event extends keyof Down<C> ? Down<C>[Event] : never

/** Any event that the server sends, with its data: a union that is discriminated by the property `event`. */
export type Received<C extends Contract = Contract> = {
  [Event in DownEvent<C>]: { readonly event: Event, readonly data: DownData<C, Event> }
}[DownEvent<C>]

/** The data of the messages with this event name; `never` if the contract does not contain it. */
export type UpData<C extends Contract, Event> = Event extends keyof Up<C>
  ? DataOf<Up<C>[Event]>
  : never

/** The response to a message with this event name: the awaited result of its handler. */
export type UpResponse<C extends Contract, Event> = Event extends keyof Up<C>
  ? Up<C>[Event] extends (data: never) => infer Result ? Awaited<Result> : never
  : never

/** What a request with this event name resolves with: the response or, if the handler returns an async iterable, the start of its delivery. */
export type UpResult<C extends Contract, Event> = ResultOf<UpResponse<C, Event>>

// Type parameters, because a conditional type applies to each member of a union only if it checks a type parameter.
type ResultOf<Response> = Response extends AsyncIterable<unknown> ? { readonly status: 'streaming', readonly message: string } : Response
type ValueOf<Response> = Response extends AsyncIterable<infer Value> ? Value : never

/** The values that the handler of the messages with this event name returns one after the other, as an async iterable; `never` if it returns no iterable. */
export type UpValue<C extends Contract, Event> = C extends { up: object }
  ? ValueOf<UpResponse<C, Event>>
  : unknown

/** The event names of the requests that the server sends. */
export type RequestEvent<C extends Contract> = keyof Requests<C> & string

/** The data of the requests with this event name; `never` if the contract does not contain it. */
export type RequestData<C extends Contract, Event> = Event extends keyof Requests<C> ? DataOf<Requests<C>[Event]> : never

/** The answer to a request with this event name: the awaited result of the handler of the client. */
export type RequestAnswer<C extends Contract, Event> = Event extends keyof Requests<C>
  ? Requests<C>[Event] extends (data: never) => infer Result ? Awaited<Result> : never
  : never

/** The arguments that follow the name of an event or message: its data, which is optional if it may be `undefined`, then `Others`. */
export type Payload<Data, Others extends unknown[] = []> = undefined extends Data ? [data?: Data, ...Others] : [data: Data, ...Others]
