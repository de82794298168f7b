// The same as `ours`. Workloads use 10,000 sessions for it, so that their costs can be compared with those of 100,000.
export { start } from './ours.js'
