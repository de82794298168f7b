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
  readonly data?: Buffer
}

const NAMES = ['event', 'id', 'data'] as const

/**
 * Splits the JSON object of a line into its members. `data` is not parsed, because the parser of the app does that: it then
 * receives the same text as in a single POST. Other members are ignored. Returns `undefined` if the line is not an object.
 */
export function parseLine (line: Buffer): JsonLine | undefined {
  // The start and the end of the value of each member. If a member is repeated, the last one counts.
  const ranges: Partial<Record<keyof JsonLine, readonly [start: number, end: number]>> = {}
  const parse = ([start, end]: readonly [number, number]): unknown => JSON.parse(line.toString('utf8', start, end))
  try {
    let at = skipSpace(line, 0)
    if (line[at] !== OPENING_BRACE) return undefined
    at = skipSpace(line, at + 1)
    while (line[at] !== CLOSING_BRACE) {
      const keyEnd = findStringEnd(line, at)
      const name = readName(line, at, keyEnd)
      at = skipSpace(line, keyEnd)
      if (line[at] !== COLON) return undefined
      const start = skipSpace(line, at + 1)
      at = findValueEnd(line, start)
      if (at === start) return undefined
      if (name !== undefined) ranges[name] = [start, at]
      if (line[at] === COMMA) {
        at = skipSpace(line, at + 1)
        if (line[at] !== QUOTE) return undefined
      }
    }
    if (skipSpace(line, at + 1) < line.length) return undefined
    const { event, id, data } = ranges
    return { ...event && { event: parse(event) }, ...id && { id: parse(id) }, ...data && { data: line.subarray(...data) } }
  } catch {
    return undefined
  }
}

/** Returns the index of the first byte that is not white space of JSON, at an index or after it. */
export function skipSpace (bytes: Buffer, start: number): number {
  let at = start
  while (isSpace(bytes[at])) at++
  return at
}

const isSpace = (byte: number | undefined): boolean => byte === SPACE || byte === LINE_FEED || byte === CARRIAGE_RETURN || byte === TAB

/** Returns the member that a string names, if it is one of {@link NAMES}. Parses only strings with a backslash, because a line may contain very many. */
function readName (line: Buffer, start: number, end: number): keyof JsonLine | undefined {
  for (const name of NAMES) if (equals(line, start + 1, end - 1, name)) return name
  for (let at = start; at < end; at++) {
    if (line[at] === BACKSLASH) return NAMES.find(name => name === JSON.parse(line.toString('utf8', start, end)))
  }
  return undefined
}

/** Whether the bytes of a range are an ASCII text. */
function equals (bytes: Buffer, start: number, end: number, text: string): boolean {
  if (end - start !== text.length) return false
  for (let n = 0; n < text.length; n++) if (bytes[start + n] !== text.charCodeAt(n)) return false
  return true
}

/** Returns the index after the string that starts at an index. */
function findStringEnd (line: Buffer, start: number): number {
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
function findValueEnd (line: Buffer, start: number): number {
  let depth = 0
  for (let at = start; at < line.length; at++) {
    switch (line[at]) {
      case QUOTE:
        at = findStringEnd(line, at) - 1
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
