/** A promise that records whether somebody handles its result. Like `ObservedPromise` of the server, but without `setImmediate`, which browsers do not have. */
export class ResultPromise<T> extends Promise<T> {
  #isHandled = false

  // `await` calls it, too, because this is not a plain promise.
  override then<A = T, B = never> (onFulfilled?: ((value: T) => A | PromiseLike<A>) | null, onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<A | B> {
    this.#isHandled = true
    return super.then(onFulfilled, onRejected)
  }

  /** Calls a function with the reason if the promise rejects and nobody has handled it by the end of the current task. */
  onUnhandled (report: (reason: unknown) => void): void {
    // This is `super.then`, because `this.then` would mark the result as handled.
    super.then(undefined, reason => {
      setTimeout(() => { if (!this.#isHandled) report(reason) })
    })
  }
}
