// Run as a process of its own, for the runner of tests makes requests slow: clients that open a session at one of
// several servers, send a message to another, and leave, a quarter of them for good.
import { Agent, request } from 'undici'

const { URLS = '', EVENT, COUNT } = process.env
const urls = URLS.split(',')
const agent = new Agent({ connections: 50 })
let left = Number(COUNT)

const visit = async (n: number): Promise<void> => {
  const url = urls[n % urls.length] ?? ''
  const { headers, body } = await request(`${url}/downward`, { dispatcher: agent })
  const session = { 'x-session-id': String(headers['x-session-id']) }
  const other = urls[(n + 1) % urls.length] ?? ''
  const post = async (): Promise<number> => {
    const { statusCode, body } = await request(`${other}/upward/${EVENT}`, {
      method: 'POST',
      headers: { ...session, 'content-type': 'application/json', 'idempotency-key': 'k' },
      body: String(n),
      dispatcher: agent
    })
    await body.dump()
    return statusCode
  }
  let status = await post()
  // A slow machine's Redis may not answer in time.
  for (let attempt = 0; status === 503 && attempt < 5; attempt++) status = await post()
  if (status !== 202) throw new Error(`The POST was answered ${status}`)
  body.on('error', () => {}).destroy()
  if (n % 4 === 0) await (await request(`${url}/downward`, { method: 'DELETE', headers: session, dispatcher: agent })).body.dump()
}

await Promise.all(Array.from({ length: 32 }, async () => { while (left > 0) await visit(left--) }))
await agent.destroy()
