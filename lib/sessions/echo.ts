import { TextMissing } from '../errors.js'
import type { Session } from './session.js'
import type { UpwardReply } from './upward-reply.js'

const getTimeOfDay = (): string => new Date().toLocaleTimeString()

/** Creates the data of the welcome event, if the app has no `onOpen` hook and does not handle `message` itself. */
export function createGreeting (): object {
  return { text: 'Welcome to the chat!', timestamp: getTimeOfDay() }
}

/** Handles messages with the event name `message` if the app does not handle them itself: sends the text back. */
export async function echo (session: Session, data: unknown, reply: UpwardReply): Promise<object> {
  const text = typeof data === 'object' && data !== null && 'text' in data ? data.text : undefined
  if (typeof text !== 'string' || text === '') throw new TextMissing()
  await session.send({ text: `Data received: ${text}`, timestamp: getTimeOfDay() })
  reply.code(201)
  return { status: 'Message sent successfully' }
}
