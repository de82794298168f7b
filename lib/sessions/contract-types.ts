import type { Awaitable } from '../awaitable.js'
import type { Contract, DownData, DownEvent, Payload, UpResponse, UpData } from '../contract.js'
import type { Channel, SendOptions } from './channel.js'
import type { HandlerContext } from './handlers.js'
import type { Session } from './session.js'

/** A session whose events are typed by a contract. */
export interface ContractSession<C extends Contract> extends Omit<Session, 'send' | 'emit' | 'stream'> {
  send (...payload: Payload<DownData<C, 'message'>>): Promise<void>
  emit<Event extends DownEvent<C>> (event: Event, ...payload: Payload<DownData<C, Event>>): Promise<void>
  stream<Event extends DownEvent<C>> (event: Event, items: AsyncIterable<DownData<C, Event>> | Iterable<DownData<C, Event>>): Promise<void>
}

/** A channel whose events are typed by a contract. */
export interface ContractChannel<C extends Contract> extends Omit<Channel, 'send' | 'emit'> {
  send (...payload: Payload<DownData<C, 'message'>, [options?: SendOptions]>): Promise<void>
  emit<Event extends DownEvent<C>> (event: Event, ...payload: Payload<DownData<C, Event>, [options?: SendOptions]>): Promise<void>
}

/** A handler whose data and response are typed by a contract. */
export type ContractHandler<C extends Contract, Event> =
  (session: ContractSession<C>, data: UpData<C, Event>, context: HandlerContext) => Awaitable<UpResponse<C, Event>>
