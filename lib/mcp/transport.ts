import type { JsonRpcMessage, RequestId } from './json-rpc.js'

/** The HTTP request that has carried a message. */
export interface RequestInfo {
  readonly url: string
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  /** What the authentication of the app has set as `request.auth`. */
  readonly authInfo: unknown
}

/** What a server of the SDKs receives with a message. */
export class MessageExtra {
  /** What is passed to another process, which creates this object from it. */
  readonly info: RequestInfo
  readonly authInfo: unknown
  /** Version 1 of the SDK reads this, and version 2 reads {@link request}. */
  readonly requestInfo: { readonly url: URL, readonly headers: RequestInfo['headers'] }
  closeSSEStream?: () => void
  closeStandaloneSSEStream?: () => void

  constructor (info: RequestInfo) {
    const { url, headers, authInfo } = info
    this.info = info
    this.authInfo = authInfo
    this.requestInfo = { url: new URL(url), headers }
  }

  get request (): Request {
    return this.createRequest()
  }

  /** Creates the request of a client for a handler of version 2 of the SDK. Its body is parsed already. */
  createRequest (signal?: AbortSignal): Request {
    const { url, headers } = this.requestInfo
    // HTTP/2 has headers such as `:path`.
    const entries = Object.entries(headers).filter(([name]) => !name.startsWith(':'))
    return new Request(url, { method: 'POST', ...signal && { signal }, headers: entries.map(([name, value]): [string, string] => [name, String(value)]) })
  }
}

/** The transport of the official SDKs, by structure, so that the package does not depend on them. */
export interface McpTransport {
  readonly sessionId: string
  onclose?: () => void
  onerror?: (error: Error) => void
  onmessage?: (message: JsonRpcMessage, extra?: MessageExtra) => void
  start (): Promise<void>
  send (message: JsonRpcMessage, options?: { readonly relatedRequestId?: RequestId }): Promise<void>
  close (): Promise<void>
}

/** A server of the official SDKs, such as `McpServer`. */
export interface McpServerLike {
  /** `never`, so that the transport types of all versions of the SDKs match. */
  connect (transport: never): Promise<void>
}

/** A handler of version 2 of the official SDK, by structure: the result of `createMcpHandler`. */
export interface McpHandlerLike {
  /** `never`, so that the types of all versions of the SDK match. */
  fetch (request: Request, options: never): Promise<Response>
  /** Ends the requests that run. */
  close? (): Promise<void>
}
