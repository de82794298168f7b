export type IsSame<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false

/** Fails to compile unless its type argument is `true`. */
export const assertType = <Condition extends true>(): Condition | undefined => undefined
