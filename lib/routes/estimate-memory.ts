// About what V8 needs on a 64-bit machine, in bytes.
const OBJECT = 56
const VALUE = 16

// The rest of larger data is not counted, so that the loop ends for any value.
const MAX = 2 ** 26

/** Returns about how many bytes of memory parsed data takes. Small objects take many times the size of their JSON. */
export function estimateMemory (data: unknown): number {
  const rest = [data]
  let bytes = 0
  while (rest.length > 0 && bytes < MAX) {
    const value = rest.pop()
    bytes += VALUE
    if (typeof value === 'string') bytes += value.length
    else if (ArrayBuffer.isView(value)) bytes += value.byteLength
    else if (typeof value === 'object' && value !== null) {
      bytes += OBJECT
      for (const name in value) {
        bytes += name.length
        rest.push((value as Record<string, unknown>)[name])
      }
    }
  }
  return bytes
}
