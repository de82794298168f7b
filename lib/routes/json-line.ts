const QUOTE = 34
const COMMA = 44
const OPENING_BRACKET = 91
const BACKSLASH = 92
const CLOSING_BRACKET = 93
const OPENING_BRACE = 123
const CLOSING_BRACE = 125

/** The members of a line of a batch. */
export interface JsonLine {
  readonly event?: unknown
  readonly id?: unknown
  /** The JSON text of the member `data`, unchanged. */
  readonly data?: string
}

/**
 * Splits the JSON object of a line into its members. `data` is not parsed, because the parser of the app does that: it then
 * receives the same text as in a single POST. Other members are ignored. Returns `undefined` if the line is not an object.
 */
export function parseLine (line: string): JsonLine | undefined {
  const members: { event?: unknown, id?: unknown, data?: string } = {}
  try {
    let at = skipSpace(line, 0)
    if (line[at] !== '{') return undefined
    at = skipSpace(line, at + 1)
    while (line[at] !== '}') {
      const keyEnd = endOfString(line, at)
      const key: unknown = JSON.parse(line.slice(at, keyEnd))
      at = skipSpace(line, keyEnd)
      if (line[at] !== ':') return undefined
      const end = endOfValue(line, at + 1)
      const value = line.slice(at + 1, end).trim()
      if (value === '') return undefined
      if (key === 'data') members.data = value
      else if (key === 'event' || key === 'id') members[key] = JSON.parse(value)
      at = end
      if (line[end] === ',') {
        at = skipSpace(line, end + 1)
        if (line[at] !== '"') return undefined
      }
    }
    return skipSpace(line, at + 1) === line.length ? members : undefined
  } catch {
    return undefined
  }
}

function skipSpace (text: string, start: number): number {
  let at = start
  while (' \t\r'.includes(text.charAt(at)) && at < text.length) at++
  return at
}

/** Returns the index after the string that starts at an index. */
function endOfString (text: string, start: number): number {
  if (text.charCodeAt(start) === QUOTE) {
    for (let end = text.indexOf('"', start + 1); end > 0; end = text.indexOf('"', end + 1)) {
      let backslashes = 0
      while (text.charCodeAt(end - 1 - backslashes) === BACKSLASH) backslashes++
      if (backslashes % 2 === 0) return end + 1
    }
  }
  throw new SyntaxError('There is no string')
}

/** Returns the index of the comma or the closing brace after the value that starts at an index. */
function endOfValue (text: string, start: number): number {
  let depth = 0
  for (let at = start; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case QUOTE:
        at = endOfString(text, at) - 1
        break
      case OPENING_BRACE:
      case OPENING_BRACKET:
        depth++
        break
      case CLOSING_BRACE:
        if (depth === 0) return at
        depth--
        break
      case CLOSING_BRACKET:
        depth--
        break
      case COMMA:
        if (depth === 0) return at
    }
  }
  throw new SyntaxError('The value does not end')
}
