import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { useSession } from 'fastify-sse-sessions/react'

/** @import { SessionHandle } from 'fastify-sse-sessions/react' */
/** @typedef {{ down: { message: { tick?: number, time?: string, finished?: boolean } } }} Clock */

const TICKS = 10

function Clock () {
  /** @type {SessionHandle<Clock>} */
  const { state, sessionId, lastEvent, reopen } = useSession('/clock', { shared: true })
  const { finished = false, tick = finished ? TICKS : 0, time = '…' } = lastEvent?.data ?? {}
  return (
    <main>
      <header>
        <div>
          <h1>Server clock with React</h1>
          <small>Session <code>{sessionId ?? '…'}</code></small>
        </div>
        <span id='state' role='status' data-state={state}>{state}</span>
      </header>
      <section>
        <p id='time'>{finished ? 'Finished' : time}</p>
        <progress aria-label='Ticks' max={TICKS} value={tick} />
        <small>{finished ? 'The server sent ten ticks and closed the session.' : `Tick ${tick} of ${TICKS}`}</small>
        <button disabled={state !== 'closed'} onClick={reopen}>Start again</button>
      </section>
    </main>
  )
}

createRoot(/** @type {HTMLElement} */ (document.getElementById('page'))).render(<StrictMode><Clock /></StrictMode>)
