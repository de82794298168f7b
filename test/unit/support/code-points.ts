import fc from 'fast-check'

/** Every Unicode code point, lone surrogates included. As the unit 'binary' of fast-check, which takes a second to build its tables. */
export const codePoints = fc.nat(0x10ffff).map(code => String.fromCodePoint(code))
