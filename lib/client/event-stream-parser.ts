// A header cannot contain other characters, and a long one would be refused.
const SENDABLE_ID = /^[\t -~\x80-\uffff]{0,1024}$/
// Maximum number of characters of an event that are not data: its id, its name and the field names.
export const OVERHEAD = 1024

/**
 * Receives the blocks of a stream. `id` is `undefined` if the block has none that can be sent; `data`
 * ends with LF; it is empty if the block is no event. `request` is the value of the field `request`; empty if there is none.
 */
export type OnBlock = (id: string | undefined, event: string, data: string, request: string) => void

/**
 * [WHATWG HTML 9.2.6] Creates a parser for one event stream without a byte order mark. It is a function that parses the next
 * part of the stream, and returns the number of characters of the incomplete event at its end. `onRetry` receives a new
 * reconnection time, in milliseconds.
 */
export function createParser (onBlock: OnBlock, onRetry: (ms: number) => void): (text: string) => number {
  let pendingLine = ''
  let isAfterCr = false
  let id: string | undefined
  let event = ''
  let data = ''
  let request = ''

  const parseLine = (line: string): void => {
    if (!line) {
      onBlock(id, event || 'message', data, request)
      id = undefined
      event = data = request = ''
      return
    }
    const [, field, value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) as unknown as [string, string, string?]
    if (field === 'data') data += `${value}\n`
    else if (field === 'event') event = value
    else if (field === 'request') request = value
    else if (field === 'id' && SENDABLE_ID.test(value)) id = value
    else if (field === 'retry' && /^\d+$/.test(value)) onRetry(Number(value))
  }

  return text => {
    if (text) {
      // A CR ends a line at once, because an LF that belongs to it can be missing or late.
      const start = isAfterCr && text.startsWith('\n') ? 1 : 0
      isAfterCr = text.endsWith('\r')
      const lines = text.slice(start).split(/\r\n?|\n/)
      // Only the new text is searched for line ends, so that a long line in many parts costs linear time.
      const rest = lines.pop() as string
      for (const line of lines) {
        parseLine(pendingLine + line)
        pendingLine = ''
      }
      pendingLine += rest
    }
    return pendingLine.length + data.length
  }
}
