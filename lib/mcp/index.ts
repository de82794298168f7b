import type { FastifyPluginAsync } from 'fastify'
import { ServerConnections } from '../stream/server-connections.js'
import { resolveMcpOptions, type McpOptions } from './options.js'
import { McpRegistry } from './registry.js'
import { mcpRoutes } from './routes.js'

/**
 * Hosts a server of the Model Context Protocol (MCP) at one path, with sessions and streams that clients can resume. For the options see
 * {@link McpOptions}. An invalid option fails the boot with FST_SSE_OPTION_INVALID.
 */
const mcp: FastifyPluginAsync<McpOptions> = async (app, options) => {
  const settings = resolveMcpOptions(options, app.initialConfig.pluginTimeout)
  const registry = await McpRegistry.create(settings, app.log)
  const connections = ServerConnections.of(app)
  connections.add(() => registry.close(), settings.sessions.closeTimeout)
  app.addHook('onListen', async () => { connections.addServersOf(app) })
  // Not in `onClose`: Fastify runs it after all responses have ended, and streams do not end by themselves.
  app.addHook('preClose', () => connections.close())
  await mcpRoutes(app, { registry, settings })
}

export default mcp
export { mcp }
export type { McpOptions, McpServerContext } from './options.js'
export type { McpHandlerLike, McpServerLike } from './transport.js'
