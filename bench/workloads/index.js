import broadcast from './broadcast.js'
import churn from './churn.js'
import drops from './drops.js'
import echo from './echo.js'
import idle from './idle.js'
import open from './open.js'
import redisBroadcast from './redis-broadcast.js'
import redisMessages from './redis-messages.js'
import redisRelay from './redis-relay.js'
import redisRequest from './redis-request.js'
import redisUsage from './redis-usage.js'
import replay from './replay.js'
import resume from './resume.js'
import scale from './scale.js'
import slowClient from './slow-client.js'
import tokens from './tokens.js'

/**
 * All workloads, in the order in which they run. A workload has
 * - `name`: on the command line and in the results,
 * - `title`: what happens,
 * - `subjects`: the names of those that can run it,
 * - `seconds`: about how long one subject takes in one round, on a machine that does nothing else,
 * - `maxRounds`: if further rounds would show nothing new; default: no limit,
 * - `options`: passed to `start` of each subject,
 * - `nodes`: if it needs Redis, the number of server processes that share it,
 * - `measures`: by key, the label of each measured value, and `isRelative` if its ratio to `base` is shown,
 * - `base`: the subject that ratios refer to; default `raw`,
 * - `goals`: see `evaluateGoal` in harness/report.js,
 * - `run ({ server, load, subject })`: runs it once with the subject of that name, and returns the measured values by key.
 */
export const workloads = [
  ...broadcast, ...echo, idle, open, slowClient, resume, replay, churn, tokens, drops, scale,
  ...redisBroadcast, redisRequest, redisRelay, redisMessages, redisUsage
]
