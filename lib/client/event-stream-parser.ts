/** Receives what a parser finds in a stream. */
export interface EventStreamListener {
  /** A block with an id has ended. The call for its event follows, if it has data. */
  onId (id: string): void
  onEvent (name: string, data: string): void
  /** The stream changes the reconnection time, in milliseconds. */
  onRetry (ms: number): void
}

/**
 * [WHATWG HTML 9.2.6] Creates a parser for one event stream without a byte order mark. It is a function that parses the next
 * part of the stream, and returns the number of characters of the incomplete event at its end.
 */
export function createParser (onId: EventStreamListener['onId'], onEvent: EventStreamListener['onEvent'], onRetry: EventStreamListener['onRetry']): (text: string) => number {
  let pendingLine = ''
  let isAfterCr = false
  let name = ''
  let data = ''
  let id: string | undefined

  const endBlock = (): void => {
    if (id !== undefined) onId(id)
    if (data !== '') onEvent(name || 'message', data.slice(0, -1))
    id = undefined
    name = data = ''
  }

  const parseLine = (line: string): void => {
    if (line === '') return endBlock()
    const [, field, value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) as unknown as [string, string, string?]
    if (field === 'data') data += `${value}\n`
    else if (field === 'event') name = value
    else if (field === 'id' && !value.includes('\0')) id = value
    else if (field === 'retry' && /^\d+$/.test(value)) onRetry(Number(value))
  }

  return text => {
    if (text !== '') {
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
