import { useChat } from '@ai-sdk/react'
import { DefaultChatTransport } from 'ai'
import { resumableFetch } from 'fastify-sse-sessions/fetch'
import { useEffect, useRef, useState } from 'react'
import { createRoot } from 'react-dom/client'

/** @import { UIMessage } from 'ai' */
/** @import { FormEvent } from 'react' */

const QUESTIONS = ['What is this?', 'What happens if I reload?', 'How do I stop the answer?']

const transport = new DefaultChatTransport({
  api: '/ai/chats',
  fetch: resumableFetch(),
  prepareReconnectToStreamRequest: ({ id }) => ({ api: `/ai/chats/${id}/stream` })
})

/**
 * Returns the messages that the server has stored.
 * @param {string} id
 * @returns {Promise<UIMessage[]>}
 */
async function loadMessages (id) {
  const response = await fetch(`/ai/chats/${id}`)
  if (!response.ok) throw new Error(`The server responded with ${response.status}.`)
  return await response.json()
}

/** @param {{ id: string, stored: UIMessage[] }} props */
function Chat ({ id, stored }) {
  const { messages, status, error, sendMessage, setMessages, resumeStream } = useChat({ id, messages: stored, transport, resume: true })
  const [question, setQuestion] = useState('')
  const [note, setNote] = useState('')
  const list = useRef(/** @type {HTMLOListElement | null} */ (null))
  const isAnswering = status === 'submitted' || status === 'streaming'

  // The answer of another tab may have started, or ended, since the messages were loaded.
  const isUnanswered = messages.at(-1)?.role === 'user'
  useEffect(() => {
    if (status !== 'ready') return
    const update = async () => {
      setMessages(await loadMessages(id))
      await resumeStream()
    }
    const onVisible = () => { if (!document.hidden) update().catch(() => {}) }
    document.addEventListener('visibilitychange', onVisible)
    if (isUnanswered) loadMessages(id).then(setMessages).catch(() => {})
    return () => { document.removeEventListener('visibilitychange', onVisible) }
  }, [id, status, isUnanswered])

  useEffect(() => { list.current?.scrollTo(0, list.current.scrollHeight) }, [messages])

  /** @param {string} text */
  const ask = text => {
    if (text.trim() === '' || isAnswering) return
    setQuestion('')
    setNote('')
    sendMessage({ text })
  }
  // To abort the request would only end the response of this page. This ends the answer, in all tabs.
  const stop = () => {
    fetch(`/ai/chats/${id}`, { method: 'DELETE' }).catch(error => { setNote(error.message) })
  }

  return (
    <main>
      <header>
        <div>
          <h1>AI SDK with React</h1>
          <small>Answers continue after a reload</small>
        </div>
        <span id='state' role='status' data-state={error ? 'closed' : isAnswering ? 'connecting' : 'open'}>{status}</span>
      </header>
      <ol ref={list} aria-live='polite'>
        {messages.map(({ id, role, parts }, index) => (
          <li key={id} className={role === 'user' ? 'up' : isAnswering && index === messages.length - 1 ? 'answer streaming' : 'answer'}>
            {parts.map(part => part.type === 'text' ? part.text : '')}
          </li>
        ))}
        {[error?.message, note].filter(Boolean).map(text => <li key={text} className='note' role='alert'>{text}</li>)}
      </ol>
      {messages.length === 0 && (
        <div id='empty'>
          <p>Ask a question. The answer is a fixed text that explains this example.</p>
          {QUESTIONS.map(text => <button key={text} onClick={() => { ask(text) }}>{text}</button>)}
        </div>
      )}
      <form onSubmit={(/** @type {FormEvent} */ event) => { event.preventDefault(); ask(question) }}>
        <input aria-label='Question' placeholder='Ask a question' maxLength={500} autoComplete='off' autoFocus value={question} onChange={({ target }) => { setQuestion(target.value) }} />
        {isAnswering ? <button id='stop' type='button' onClick={stop}>Stop</button> : <button id='ask'>Ask</button>}
      </form>
    </main>
  )
}

// The address of the page contains the id of the chat, so that another tab can open it.
if (window.location.hash.length < 33) {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  window.history.replaceState(null, '', `#${Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('')}`)
}
window.addEventListener('hashchange', () => window.location.reload())
const id = window.location.hash.slice(1)
const root = createRoot(/** @type {HTMLElement} */ (document.getElementById('page')))
root.render(<Chat id={id} stored={await loadMessages(id)} />)
