const TAB = 9
export const LINE_FEED = 10
const CARRIAGE_RETURN = 13
const SPACE = 32
const QUOTE = 34
const COMMA = 44
const COLON = 58
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
  readonly data?: Buffer | undefined
}

/**
 * Splits the JSON object of a line into its members. `data` is not parsed, because the parser of the app does that: it then
 * receives the same text as in a single POST. Other members are ignored. Returns `undefined` if the line is not an object.
 */
export function parseLine (line: Buffer): JsonLine | undefined {
  const members: { event?: Buffer, id?: Buffer, data?: Buffer } = {}
  try {
    let at = skipSpace(line, 0)
    if (line[at] !== OPENING_BRACE) return undefined
    at = skipSpace(line, at + 1)
    while (line[at] !== CLOSING_BRACE) {
      const keyEnd = endOfString(line, at)
      const key = parse(line.subarray(at, keyEnd))
      at = skipSpace(line, keyEnd)
      if (line[at] !== COLON) return undefined
      const start = skipSpace(line, at + 1)
      at = endOfValue(line, start)
      if (at === start) return undefined
      if (key === 'data' || key === 'event' || key === 'id') members[key] = line.subarray(start, at)
      if (line[at] === COMMA) {
        at = skipSpace(line, at + 1)
        if (line[at] !== QUOTE) return undefined
      }
    }
    if (skipSpace(line, at + 1) < line.length) return undefined
    const { event, id, data } = members
    // If a member is repeated, the last one counts, so only that is parsed.
    return { ...event && { event: parse(event) }, ...id && { id: parse(id) }, data }
  } catch {
    return undefined
  }
}

/** Returns the index of the first byte, from an index on, that is not white space of JSON. */
export function skipSpace (bytes: Buffer, start: number): number {
  let at = start
  while (isSpace(bytes[at])) at++
  return at
}

const isSpace = (byte: number | undefined): boolean => byte === SPACE || byte === LINE_FEED || byte === CARRIAGE_RETURN || byte === TAB

const parse = (json: Buffer): unknown => JSON.parse(json.toString())

/** Returns the index after the string that starts at an index. */
function endOfString (line: Buffer, start: number): number {
  if (line[start] === QUOTE) {
    for (let at = start + 1; at < line.length; at++) {
      const byte = line[at]
      if (byte === QUOTE) return at + 1
      if (byte === BACKSLASH) at++
    }
  }
  throw new SyntaxError('There is no string')
}

/** Returns the index of the comma or the closing brace after the value that starts at an index. */
function endOfValue (line: Buffer, start: number): number {
  let depth = 0
  for (let at = start; at < line.length; at++) {
    switch (line[at]) {
      case QUOTE:
        at = endOfString(line, at) - 1
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
