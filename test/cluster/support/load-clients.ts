// Runs in its own process, because requests are slow inside the test runner. Each client opens a session on one server,
// sends a message to another server and disconnects. A quarter of the clients close their session.
import { Agent, request } from 'undici'

const { URLS = '', EVENT, COUNT } = process.env
const urls = URLS.split(',')
const agent = new Agent({ connections: 50 })
let remaining = Number(COUNT)

const runSession = async (n: number): Promise<void> => {
  const url = urls[n % urls.length] ?? ''
  const { headers, body: stream } = await request(`${url}/downward`, { dispatcher: agent })
  const sessionHeader = { 'x-session-id': String(headers['x-session-id']) }
  const otherUrl = urls[(n + 1) % urls.length] ?? ''
  const post = async (): Promise<number> => {
    const { statusCode, body } = await request(`${otherUrl}/upward/${EVENT}`, {
      method: 'POST',
      headers: { ...sessionHeader, 'content-type': 'application/json', 'idempotency-key': 'k' },
      body: String(n),
      dispatcher: agent
    })
    await body.dump()
    return statusCode
  }
  let status = await post()
  // On a slow machine, Redis may not reply in time.
  for (let attempt = 0; status === 503 && attempt < 5; attempt++) status = await post()
  if (status !== 202) throw new Error(`The POST returned status ${status}`)
  stream.on('error', () => {}).destroy()
  if (n % 4 === 0) await (await request(`${url}/downward`, { method: 'DELETE', headers: sessionHeader, dispatcher: agent })).body.dump()
}

await Promise.all(Array.from({ length: 32 }, async () => { while (remaining > 0) await runSession(remaining--) }))
await agent.destroy()
