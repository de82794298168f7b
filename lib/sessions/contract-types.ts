import type { Awaitable } from '../awaitable.js'
import type { Contract, DownData, DownEvent, EmptyDownEvent, Payload, Received, RequestAnswer, RequestData, RequestEvent, UpResponse, UpData } from '../contract.js'
import type { RequestOptions } from '../runs/requests.js'
import type { Channel } from './channel.js'
import type { JoinOptions } from './channel-options.js'
import type { LatestOptions, SendOptions } from './event-options.js'
import type { HandlerContext } from './handlers.js'
import type { EmitOptions, Session } from './session.js'
import type { PrincipalSessions } from './principal-sessions.js'

// The overloads for events without data are not one signature with optional data: TypeScript could not compare that with
// the signature of the base type, so a contract session could not be used as a `Session`.

/** A session whose events are typed by a contract. It can be used as a `Session`. */
export interface ContractSession<C extends Contract> extends Session {
  send (data: DownData<C, 'message'>, options?: LatestOptions): Promise<void>
  emit<Event extends EmptyDownEvent<C>> (event: Event, data?: undefined, options?: EmitOptions): Promise<void>
  emit<Event extends DownEvent<C>> (event: Event, data: DownData<C, Event>, options?: EmitOptions): Promise<void>
  request<Event extends RequestEvent<C>> (event: Event, ...payload: Payload<RequestData<C, Event>, [options?: RequestOptions]>): Promise<RequestAnswer<C, Event>>
  stream<Event extends DownEvent<C>> (event: Event, items: AsyncIterable<DownData<C, Event>> | Iterable<DownData<C, Event>>): Promise<void>
  join (channel: string): Promise<void>
  join (channel: string, options: JoinOptions): Promise<Array<Received<C>>>
}

/** A channel whose events are typed by a contract. It can be used as a `Channel`. */
export interface ContractChannel<C extends Contract> extends Channel {
  sessions (): Promise<Array<ContractSession<C>>>
  send (data: DownData<C, 'message'>, options?: SendOptions): Promise<void>
  emit<Event extends EmptyDownEvent<C>> (event: Event): Promise<void>
  emit<Event extends DownEvent<C>> (event: Event, data: DownData<C, Event>, options?: SendOptions): Promise<void>
}

/** The sessions of a principal, whose events are typed by a contract. It can be used as a `PrincipalSessions`. */
export interface ContractPrincipalSessions<C extends Contract> extends PrincipalSessions {
  sessions (): Promise<Array<ContractSession<C>>>
  send (data: DownData<C, 'message'>, options?: LatestOptions): Promise<void>
  emit<Event extends EmptyDownEvent<C>> (event: Event): Promise<void>
  emit<Event extends DownEvent<C>> (event: Event, data: DownData<C, Event>, options?: LatestOptions): Promise<void>
}

/** A handler whose data and response are typed by a contract. If the handler has a schema, and the app a type provider, then `Data` is the type of the schema. */
export type ContractHandler<C extends Contract, Event, Data = unknown> =
  (session: ContractSession<C>, data: unknown extends Data ? UpData<C, Event> : Data, context: HandlerContext) => Awaitable<UpResponse<C, Event>>
