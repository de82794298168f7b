const EVENTS = 200_000
const SIZE = 1000
const AT_ONCE = 1000

export default [{
  name: 'W7',
  title: 'replay of a log of 200,000 events of 1,000 bytes to one client',
  subjects: ['ours'],
  // The default bounds of a log are there to prevent one so long.
  options: { channelLog: { entries: 1e9, bytes: 1e12 } },
  measures: {
    rate: { label: 'MB/s' },
    cpuRate: { label: 'MB a second of server CPU' }
  },
  goals: [{ what: 'MB/s', value: result => result.median('ours', 'rate'), atLeast: 500 }],
  async run ({ server, load }) {
    const [{ lastId }] = await load.open(1)
    load.close()
    for (let n = 1; n <= EVENTS; n += AT_ONCE) await server.ask('tick', n, AT_ONCE, SIZE)
    const rates = []
    // The first time is the warm-up.
    for (let time = 0; time < 2; time++) {
      load.bytes = load.received = 0
      await server.ask('begin')
      const begun = performance.now()
      const stream = load.stream({ headers: [`Last-Event-ID: ${lastId}`] })
      await stream.opened
      await load.until(() => load.received === EVENTS, 'the replay')
      const seconds = (performance.now() - begun) / 1000
      const cpu = await server.ask('end')
      stream.destroy()
      rates.push({ rate: load.bytes / 1e6 / seconds, cpuRate: load.bytes / cpu })
    }
    return rates[1]
  }
}]
