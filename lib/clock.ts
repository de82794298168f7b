/** Returns the time for ages and deadlines, in milliseconds, from a monotonic clock. */
export const now = (): number => performance.now()
