/** Measures and goals of workloads that hold idle sessions. */
export const memoryMeasures = {
  heap: { label: 'heap, bytes per session' },
  rss: { label: 'rss, bytes per session' }
}

export const memoryGoals = [
  { measure: 'heap', moreThan: 'raw', atMost: 1024 },
  { measure: 'rss', moreThan: 'raw', atMost: 1024 }
]

/** Opens sessions and returns the memory of the server per session, after garbage collection. */
export async function measureMemory (server, load, sessions) {
  const before = await server.execute('memory')
  await load.open(sessions)
  const after = await server.execute('memory')
  return { before, perSession: { heap: (after.heap - before.heap) / sessions, rss: (after.rss - before.rss) / sessions } }
}
