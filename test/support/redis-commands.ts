import type { Redis } from 'ioredis'

export interface Order {
  readonly operation: string
  /** 0 where it is in no line. */
  readonly number: number
  readonly args: readonly string[]
  /** Where in the command it says when it is given up. */
  readonly limitAt: number
}

/** The orders in a command to Redis; none where it is no batch of orders. */
export function ordersOf (command: readonly string[]): Order[] {
  const orders: Order[] = []
  if (command[0]?.toUpperCase() !== 'EVALSHA') return orders
  for (let at = 8; at < command.length;) {
    const [operation = '', number, , count] = command.slice(at, at + 4)
    const end = at + 4 + Number(count)
    orders.push({ operation, number: Number(number), args: command.slice(at + 4, end), limitAt: at + 2 })
    at = end
  }
  return orders
}

/** Has something be done before each command that a client sends, with the orders in it. */
export function beforeOrders (client: Redis, act: (orders: Order[]) => unknown): void {
  const call = client.call.bind(client) as (...command: string[]) => Promise<unknown>
  const callAfter = async (...command: string[]): Promise<unknown> => {
    await act(ordersOf(command))
    return await call(...command)
  }
  Object.assign(client, { call: callAfter })
}
