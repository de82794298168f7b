import { STATUS_CODES } from 'node:http'
import type { Test } from 'tap'
import type { Answer } from './stream.js'

/** Asserts that a response is an error in the format of Fastify, with the given status and code. */
export function refused (t: Test, { status, body }: Answer, expected: number, code: string): void {
  t.equal(status, expected, code)
  t.match(body, { statusCode: expected, code, error: STATUS_CODES[expected], message: /./ })
}
