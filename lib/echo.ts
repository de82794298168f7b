import { TextMissing } from './errors.js'
import type { UpwardReply } from './reply.js'
import type { Session } from './session.js'

const timeOfDay = (): string => new Date().toLocaleTimeString()

/** What an app that has not said anything else greets with. */
export function greet (): object {
  return { text: 'Welcome to the chat!', timestamp: timeOfDay() }
}

/** What becomes of a `message` while the app has no handler for it: it comes back down. */
export async function echo (session: Session, data: unknown, reply: UpwardReply): Promise<object> {
  const text = typeof data === 'object' && data !== null && 'text' in data ? data.text : undefined
  if (typeof text !== 'string' || text === '') throw new TextMissing()
  await session.send({ text: `Data received: ${text}`, timestamp: timeOfDay() })
  reply.code(201)
  return { status: 'Message sent successfully' }
}
