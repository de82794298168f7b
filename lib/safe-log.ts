import { inspect } from 'node:util'
import type { FastifyBaseLogger } from 'fastify'

/**
 * Logs a message. Does not throw, even if the logger or a getter of a logged error does: most messages are logged by timers
 * and listeners, where an error would terminate the process.
 */
export function logSafely (logger: FastifyBaseLogger, level: 'info' | 'warn' | 'error', details: object, message: string): void {
  try {
    logger[level](details, message)
  } catch (error) {
    // Not with `String` or `error.message`, which can throw, too.
    process.emitWarning(`The message "${message}" could not be logged: ${inspect(error, { depth: 0, customInspect: false })}`, 'FastifySseSessionsWarning')
  }
}
