/** Whether an `Accept` header accepts a media type, given in lower case. */
export function acceptsType (type: string, accept = '*/*'): boolean {
  // Most clients send one of these two values, or no header. They need no parsing.
  if (accept === '*/*' || accept === type) return true
  // From the least to the most specific.
  const ranges = ['*/*', `${type.split('/', 1)[0] as string}/*`, type]
  let specificity = -1
  let weight = 0
  // Quoted values may contain separators, and none of them matters here. A value that does not end matches, too:
  // otherwise, each quote in it would be tried as a start, which takes quadratic time.
  for (const range of accept.replaceAll(/"(?:[^"\\]|\\.?)*"?/g, '').split(',')) {
    const [name = '', ...parameters] = range.split(';').map(part => part.trim().toLowerCase())
    const index = ranges.indexOf(name)
    // [RFC 9110, 12.5.1] The most specific range that matches decides.
    if (index === -1 || index < specificity) continue
    const quality = Number(parameters.find(parameter => parameter.startsWith('q='))?.slice(2) ?? 1)
    // The same range with parameters, such as `;v=2`, does not lower the weight of the range without them.
    weight = index === specificity ? Math.max(weight, quality) : quality
    specificity = index
  }
  // [RFC 9110, 12.4.2] A weight of 0 means "not acceptable".
  return weight > 0
}

/** Whether an `Accept` header accepts an event stream. */
export const acceptsEventStream = (accept?: string): boolean => acceptsType('text/event-stream', accept)

/** Whether an `Accept-Encoding` header lists gzip, with a weight above 0. */
export function acceptsGzip (header = ''): boolean {
  return header.split(',').some(coding => {
    const [name, weight = 'q=1'] = coding.split(';').map(part => part.trim().toLowerCase())
    // [RFC 9110, 12.4.2] A weight of 0 means "not acceptable".
    return name === 'gzip' && Number(weight.slice('q='.length)) > 0
  })
}
