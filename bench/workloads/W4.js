import { ALL } from '../subjects/index.js'

const WARM_UP = 1000
const SESSIONS = 5000

export default [{
  name: 'W4',
  title: 'opening 5,000 sessions, 100 at once',
  subjects: ALL,
  measures: {
    cpu: { label: 'server CPU, µs an open', relative: true },
    rate: { label: 'opens/s' }
  },
  goals: [{ what: 'CPU to raw', value: result => result.ratio('ours', 'cpu'), atMost: 1.1 }],
  async run ({ server, load }) {
    await load.open(WARM_UP)
    await server.ask('begin')
    const begun = performance.now()
    await load.open(SESSIONS)
    const seconds = (performance.now() - begun) / 1000
    const cpu = await server.ask('end')
    return { cpu: cpu / SESSIONS, rate: SESSIONS / seconds }
  }
}]
