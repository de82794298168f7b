import type { Channel, SendOptions } from './channel.js'
import type { Contract, DownData, DownEvent, Payload, UpAnswer, UpData, UpEvent } from './contract.js'
import type { HandlerContext, HandlerOptions } from './dispatch.js'
import type { Hooks } from './hooks.js'
import type { Session } from './session.js'
import type { Sessions } from './sessions.js'
import type { Awaitable } from './store/store.js'

/** A session that sends what a contract says. */
export interface ContractSession<C extends Contract> extends Omit<Session, 'send' | 'emit' | 'stream'> {
  send (...payload: Payload<DownData<C, 'message'>>): Promise<void>
  emit<Event extends DownEvent<C>> (event: Event, ...payload: Payload<DownData<C, Event>>): Promise<void>
  stream<Event extends DownEvent<C>> (event: Event, items: AsyncIterable<DownData<C, Event>> | Iterable<DownData<C, Event>>): Promise<void>
}

/** A channel that sends what a contract says. */
export interface ContractChannel<C extends Contract> extends Omit<Channel, 'send' | 'emit'> {
  send (...payload: Payload<DownData<C, 'message'>, [options?: SendOptions]>): Promise<void>
  emit<Event extends DownEvent<C>> (event: Event, ...payload: Payload<DownData<C, Event>, [options?: SendOptions]>): Promise<void>
}

/** Handles an event as its contract says: the data that comes, the answer that goes. */
export type ContractHandler<C extends Contract, Event> =
  (session: ContractSession<C>, data: UpData<C, Event>, context: HandlerContext) => Awaitable<UpAnswer<C, Event>>

/** The registry, typed by a contract. What comes up is what it says only where a `schema` sees to it. */
export interface ContractSessions<C extends Contract> extends Omit<Sessions, 'addHook' | 'handle' | 'broadcast' | 'channel' | 'find'> {
  addHook<Name extends keyof Hooks> (name: Name, hook: Hooks<ContractSession<C>>[Name]): this
  handle<Event extends UpEvent<C>> (event: Event, handler: ContractHandler<C, Event>): this
  handle<Event extends UpEvent<C>> (event: Event, options: HandlerOptions<unknown>, handler: ContractHandler<C, Event>): this
  broadcast<Event extends DownEvent<C>> (event: Event, ...payload: Payload<DownData<C, Event>, [options?: SendOptions]>): Promise<void>
  channel (name: string): ContractChannel<C>
  find (id: string): Promise<ContractSession<C> | undefined>
}
