/** Sends a message to all tabs that listen to a channel. */
export function post (channel: string, message: unknown): void {
  // It is closed at once: an open channel also receives the messages of other tabs, and a frozen tab queues them without limit.
  const sender = new BroadcastChannel(channel)
  sender.postMessage(message)
  sender.close()
}

/** Calls a function with the messages of a channel, until the signal aborts. */
export function listen<Message> (channel: string, signal: AbortSignal, onMessage: (message: Message) => void): void {
  const receiver = new BroadcastChannel(channel)
  receiver.onmessage = ({ data }) => { if (!signal.aborted) onMessage(data as Message) }
  signal.addEventListener('abort', () => { receiver.close() })
}
