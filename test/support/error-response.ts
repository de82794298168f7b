import { STATUS_CODES } from 'node:http'
import type { Test } from 'tap'
import type { HttpResponse } from './http-client.js'

/** Asserts that a response is an error in the format of Fastify, with the given status and code. */
export function assertErrorResponse (t: Test, { status, body }: HttpResponse, expected: number, code: string): void {
  t.equal(status, expected, code)
  t.match(body, { statusCode: expected, code, error: STATUS_CODES[expected], message: /./ })
}
