import type { Plan } from './history.js'

/** Histories that violated a guarantee once, reduced to the steps that are necessary. The command runs them first. */
export const regressions: ReadonlyArray<Plan & { readonly title: string }> = [
  {
    title: 'joins a channel while publications arrive late',
    setup: { seed: 46, lease: 1500, libraries: ['ioredis', 'redis', 'redis'], entries: 4, latency: 'medium', clients: 3, isEarly: false, isAbandoned: false },
    steps: [
      { after: 1.464515421539545, kind: 'block', node: 1, connection: 'subscription', direction: 'down', ms: 3692.4992335843854 },
      { after: 3.091565376147628, kind: 'join', client: 2, node: 0, channel: 'b' },
      { after: 3.2273922357708216, kind: 'publish', channel: 'b', node: 1, count: 1, except: undefined },
      { after: 0.0017410069704055786, kind: 'broadcast', node: 1, except: undefined }
    ]
  },
  {
    title: 'the subscription breaks while a GET subscribes to a channel',
    setup: { seed: 54, lease: 1500, libraries: ['redis', 'redis', 'redis'], entries: 1000, latency: 'medium', clients: 1, isEarly: false, isAbandoned: false },
    steps: [
      { after: 209.65256500057876, kind: 'publish', channel: 'b', node: 1, count: 1, except: undefined },
      { after: 53.86760523542762, kind: 'join', client: 0, node: 0, channel: 'b' },
      { after: 128.89026780612767, kind: 'publish', channel: 'b', node: 0, count: 1, except: 0 },
      { after: 3.3577531473711133, kind: 'block', node: 1, connection: 'subscription', direction: 'down', ms: 282.238039765507 },
      { after: 3.7803968116641045, kind: 'move', client: 0, node: 1, ms: 0.49014479317702353 },
      { after: 2.840779047459364, kind: 'kill-subscriptions' }
    ]
  },
  {
    title: 'a node closes while a GET subscribes to a channel',
    setup: { seed: 344, lease: 3000, libraries: ['redis', 'redis', 'ioredis'], entries: 7, latency: 'long', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 1.6984032159671187, kind: 'crash', node: 2, ms: 390.45338216237724 },
      { after: 60.99193242844194, kind: 'message', client: 0, node: 1, count: 1, hasKey: false, duration: 2.445349524728954, repeats: 0 },
      { after: 198.36428104899824, kind: 'message', client: 1, node: 0, count: 1, hasKey: true, duration: 14.358547748066485, repeats: 2 },
      { after: 1.7787276385352015, kind: 'emit', client: 1, node: 1, count: 1 },
      { after: 3.411617338657379, kind: 'message', client: 0, node: 0, count: 1, hasKey: true, duration: 3.224206612445414, repeats: 0 },
      { after: 1.5889410451054573, kind: 'message', client: 0, node: 1, count: 2, hasKey: true, duration: 7.210403549484909, repeats: 0 },
      { after: 0.4504820564761758, kind: 'join', client: 0, node: 0, channel: 'a' },
      { after: 68.4011401841417, kind: 'join', client: 0, node: 2, channel: 'a' },
      { after: 3.665691053494811, kind: 'move', client: 0, node: 2, ms: 0.4008029093965888 },
      { after: 2.0006013493984938, kind: 'publish', channel: 'a', node: 0, count: 1, except: 1 },
      { after: 2.723668409511447, kind: 'shutdown', node: 1, ms: 116.00657436065376 }
    ]
  },
  {
    title: 'a node closes while it handles a message',
    setup: { seed: 87, lease: 1500, libraries: ['ioredis', 'ioredis', 'redis'], entries: 1000, latency: 'medium', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 2.5346460044384003, kind: 'emit', client: 1, node: 2, count: 1 },
      { after: 1.4267798969522119, kind: 'message', client: 0, node: 1, count: 1, hasKey: true, duration: 1.893237334676087, repeats: 0 },
      { after: 2.253328191116452, kind: 'move', client: 1, node: 0, ms: 0.9357894086278975 },
      { after: 3.1266682045534253, kind: 'message', client: 0, node: 0, count: 1, hasKey: true, duration: 3.17424213886261, repeats: 0 },
      { after: 1.1136173158884048, kind: 'shutdown', node: 0, ms: 222.25607733707875 }
    ]
  },
  {
    title: 'a node closes while it handles a batch',
    setup: { seed: 734, lease: 3000, libraries: ['ioredis', 'ioredis', 'ioredis'], entries: 1000, latency: 'short', clients: 3, isEarly: false, isAbandoned: false },
    steps: [
      { after: 0.43385775946080685, kind: 'message', client: 1, node: 2, count: 4, hasKey: false, duration: 608.7325127795339, repeats: 0 },
      { after: 3.255496700294316, kind: 'message', client: 1, node: 2, count: 5, hasKey: true, duration: 15.173528500832617, repeats: 2 },
      { after: 3.525083347223699, kind: 'shutdown', node: 2, ms: 76.32548816036433 }
    ]
  },
  {
    title: 'an old GET attaches after a newer one on another node',
    setup: { seed: 237, lease: 3000, libraries: ['ioredis', 'ioredis', 'ioredis'], entries: 1000, latency: 'short', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 211.868790211156, kind: 'join', client: 0, node: 2, channel: 'b' },
      { after: 96.27843741327524, kind: 'block', node: 2, connection: 'commands', direction: 'down', ms: 541.7402362218127 },
      { after: 3.432888329960406, kind: 'move', client: 1, node: 2, ms: 1.3020517257973552 },
      { after: 2.618860854767263, kind: 'broadcast', node: 0, except: undefined },
      { after: 214.83899380546063, kind: 'message', client: 1, node: 2, count: 2, hasKey: true, duration: 3.543374546803534, repeats: 2 },
      { after: 30.26099579874426, kind: 'message', client: 1, node: 0, count: 1, hasKey: true, duration: 33.00230801105499, repeats: 0 },
      { after: 3.438914860598743, kind: 'move', client: 1, node: 0, ms: 0.3926914252806455 }
    ]
  },
  {
    title: 'the commands of a node are delayed for longer than its lease',
    setup: { seed: 1544, lease: 1500, libraries: ['redis', 'ioredis', 'ioredis'], entries: 1000, latency: 'medium', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 291.3591092918068, kind: 'cut', node: 2, connection: 'commands', refusedFor: 0 },
      { after: 2.1458148770034313, kind: 'message', client: 0, node: 1, count: 5, hasKey: true, duration: 716.754980571568, repeats: 2 },
      { after: 282.37822058144957, kind: 'message', client: 0, node: 0, count: 3, hasKey: true, duration: 8.251682984642684, repeats: 1 },
      { after: 231.57792706042528, kind: 'message', client: 0, node: 2, count: 1, hasKey: false, duration: 14.87229963671416, repeats: 0 },
      { after: 2.587818023748696, kind: 'block', node: 1, connection: 'commands', direction: 'up', ms: 1779.0634735138156 }
    ]
  },
  {
    title: 'Redis is unavailable for longer than the lease of a node that handles a batch',
    setup: { seed: 2127, lease: 1500, libraries: ['redis', 'redis', 'redis'], entries: 1000, latency: 'short', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 2.680353930220008, kind: 'message', client: 0, node: 2, count: 5, hasKey: true, duration: 382.4461817741394, repeats: 0 },
      { after: 3.218127017840743, kind: 'restart-redis', ms: 2878.272703383118 }
    ]
  },
  {
    title: 'resumes on a node whose subscription is half open',
    setup: { seed: 350, lease: 1500, libraries: ['redis', 'ioredis', 'redis'], entries: 1000, latency: 'long', clients: 3, isEarly: false, isAbandoned: false },
    steps: [
      { after: 2.0743354875594378, kind: 'emit', client: 1, node: 1, count: 1 },
      { after: 1.3287333706393838, kind: 'half-open', node: 0, connection: 'subscription', refusedFor: 0 },
      { after: 3.3190697710961103, kind: 'move', client: 1, node: 0, ms: 1.4415007098577917 }
    ]
  },
  {
    title: 'a channel that was not read yet is left when its session closes',
    setup: { seed: 1050, lease: 2500, libraries: ['ioredis', 'redis', 'redis'], entries: 1000, latency: 'long', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 1.4074473846703768, kind: 'pause', node: 0, ms: 804.0557226538658 },
      { after: 2.8892406448721886, kind: 'broadcast', node: 0, except: undefined },
      { after: 1.7698131427168846, kind: 'close', client: 0, node: 0 },
      { after: 0.0890000807121396, kind: 'join', client: 0, node: 2, channel: 'b' },
      { after: 1.119575939141214, kind: 'message', client: 1, node: 0, count: 5, hasKey: true, duration: 6.536366500891745, repeats: 0 }
    ]
  },
  {
    title: 'an older request arrives at Redis after the newer one',
    setup: { seed: 1180, lease: 2500, libraries: ['redis', 'redis', 'ioredis'], entries: 1000, latency: 'medium', clients: 3, isEarly: false, isAbandoned: false },
    steps: [
      { after: 78.4916169475764, kind: 'shutdown', node: 2, ms: 286.7721946677193 },
      { after: 0.9192683780565858, kind: 'update', client: 1, node: 1 },
      { after: 3.5589045705273747, kind: 'update', client: 0, node: 2 },
      { after: 3.129304646514356, kind: 'message', client: 0, node: 2, count: 4, hasKey: true, duration: 490.14628045260906, repeats: 0 },
      { after: 1.9972686041146517, kind: 'join', client: 0, node: 1, channel: 'b' },
      { after: 2.1166834011673927, kind: 'leave', client: 0, node: 1, channel: 'a' },
      { after: 3.441872388124466, kind: 'message', client: 0, node: 2, count: 1, hasKey: true, duration: 139.04720712453127, repeats: 1 },
      { after: 1.4284060876816511, kind: 'publish', channel: 'b', node: 1, count: 1, except: undefined },
      { after: 0.15949626918882132, kind: 'move', client: 0, node: 2, ms: 0.041608441388234496 },
      { after: 0.7876573400571942, kind: 'publish', channel: 'a', node: 1, count: 1, except: undefined },
      { after: 1.264902320690453, kind: 'move', client: 0, node: 2, ms: 1.2712600152008235 },
      { after: 1.8046935852617025, kind: 'move', client: 1, node: 1, ms: 5.321533186361194 },
      { after: 2.544511084444821, kind: 'publish', channel: 'a', node: 1, count: 2, except: undefined },
      { after: 3.6207007011398673, kind: 'emit', client: 1, node: 2, count: 2 },
      { after: 3.89899149723351, kind: 'emit', client: 0, node: 0, count: 2 },
      { after: 1.929455105215311, kind: 'move', client: 1, node: 2, ms: 1.7591437606606632 }
    ]
  },
  {
    title: 'a request waits in a paused node while its client moves on',
    setup: { seed: 2818, lease: 2500, libraries: ['redis', 'ioredis', 'ioredis'], entries: 1000, latency: 'short', clients: 1, isEarly: false, isAbandoned: false },
    steps: [
      { after: 2.057965599000454, kind: 'pause', node: 1, ms: 609.2864146828651 },
      { after: 0.16171157360076904, kind: 'shutdown', node: 2, ms: 257.11395568214357 },
      { after: 199.81468645855784, kind: 'move', client: 0, node: 0, ms: 1.3797789278905839 }
    ]
  },
  {
    title: 'both connections of a node stop while they are opened',
    setup: { seed: 2270, lease: 1500, libraries: ['redis', 'ioredis', 'ioredis'], entries: 6, latency: 'long', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 1.352472917176783, kind: 'cut', node: 0, connection: 'commands', refusedFor: 0 },
      { after: 3.1555615914985538, kind: 'message', client: 1, node: 2, count: 1, hasKey: true, duration: 9.896486619487405, repeats: 1 },
      { after: 0.5301786633208394, kind: 'block', node: 0, connection: 'subscription', direction: 'down', ms: 441.7643945850432 },
      { after: 1.483363639563322, kind: 'message', client: 0, node: 0, count: 1, hasKey: true, duration: 13.738888720050454, repeats: 1 },
      { after: 0.6741782957687974, kind: 'move', client: 1, node: 0, ms: 1.6750451819971204 },
      { after: 2.8896532943472266, kind: 'message', client: 1, node: 0, count: 1, hasKey: true, duration: 6.2159806387498975, repeats: 0 },
      { after: 3.326414270326495, kind: 'move', client: 1, node: 0, ms: 2.4877017738763243 },
      { after: 1.652626340277493, kind: 'cut', node: 0, connection: 'subscription', refusedFor: 0 },
      { after: 2.1926425835117698, kind: 'join', client: 0, node: 2, channel: 'b' },
      { after: 3.1886533880606294, kind: 'kill-subscriptions' },
      { after: 1.9684014124795794, kind: 'move', client: 0, node: 0, ms: 0.886317772557959 },
      { after: 0.6910927435383201, kind: 'emit', client: 1, node: 0, count: 1 },
      { after: 3.718911522999406, kind: 'message', client: 1, node: 2, count: 1, hasKey: true, duration: 15.383399938233197, repeats: 0 },
      { after: 3.364697279408574, kind: 'publish', channel: 'a', node: 0, count: 1, except: undefined },
      { after: 2.6532984590157866, kind: 'cut', node: 0, connection: 'subscription', refusedFor: 570.7340944744647 },
      { after: 3.90233835298568, kind: 'cut', node: 0, connection: 'commands', refusedFor: 0 },
      { after: 3.360892929136753, kind: 'block', node: 0, connection: 'commands', direction: 'down', ms: 220.48740924336016 },
      { after: 0.7630298770964146, kind: 'half-open', node: 0, connection: 'commands', refusedFor: 0 }
    ]
  },
  {
    title: 'a reply to a heartbeat arrives just before the lease ends',
    setup: { seed: 3138, lease: 1500, libraries: ['redis', 'redis', 'redis'], entries: 1000, latency: 'short', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 2.502211783081293, kind: 'emit', client: 0, node: 1, count: 1 },
      { after: 74.01497852988541, kind: 'shutdown', node: 2, ms: 322.9445944307372 },
      { after: 2.415023449808359, kind: 'crash', node: 1, ms: 462.1979770017788 },
      { after: 1.834886932745576, kind: 'block', node: 0, connection: 'commands', direction: 'down', ms: 1484.661999042146 },
      { after: 2.678548495285213, kind: 'move', client: 0, node: 1, ms: 388.4901494719088 },
      { after: 88.07599456049502, kind: 'message', client: 0, node: 1, count: 4, hasKey: true, duration: 137.44635079056025, repeats: 2 }
    ]
  },
  {
    title: 'a reply is applied to the stream after a newer version of the session is known',
    setup: { seed: 3810, lease: 1500, libraries: ['ioredis', 'ioredis', 'redis'], entries: 1000, latency: 'medium', clients: 1, isEarly: false, isAbandoned: false },
    steps: [
      { after: 0.5804738197475672, kind: 'restart-redis', ms: 154.28594804368913 },
      { after: 3.8460541367530823, kind: 'move', client: 0, node: 0, ms: 50.13502600463107 },
      { after: 2.7536969808861613, kind: 'leave', client: 0, node: 0, channel: 'b' },
      { after: 2.9947961065918207, kind: 'update', client: 0, node: 0 }
    ]
  },
  {
    title: 'a session is closed by the node to which its stream is moving',
    setup: { seed: 1608, lease: 1500, libraries: ['ioredis', 'ioredis', 'redis'], entries: 1000, latency: 'medium', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 182.34334606677294, kind: 'move', client: 0, node: 1, ms: 1.0020386630203575 },
      { after: 1.3474016021937132, kind: 'emit', client: 0, node: 0, count: 1 },
      { after: 1.3859969777986407, kind: 'half-open', node: 0, connection: 'subscription', refusedFor: 0 },
      { after: 1.243210518732667, kind: 'close', client: 0, node: 1 }
    ]
  },
  {
    title: 'a node registers again before the reply that gives it a stream is applied',
    setup: { seed: 2000163, lease: 1500, libraries: ['ioredis', 'ioredis', 'redis'], entries: 6, latency: 'long', clients: 3, isEarly: false, isAbandoned: false },
    steps: [
      { after: 1.9341610902920365, kind: 'publish', channel: 'b', node: 0, count: 1, except: undefined },
      { after: 3.8916062265634537, kind: 'cut', node: 2, connection: 'commands', refusedFor: 0 },
      { after: 75.37852711975574, kind: 'publish', channel: 'a', node: 1, count: 2, except: undefined },
      { after: 58.08007470332086, kind: 'block', node: 2, connection: 'subscription', direction: 'down', ms: 387.06255976110697 },
      { after: 2.734881662763655, kind: 'half-open', node: 2, connection: 'subscription', refusedFor: 0 },
      { after: 110.09537461213768, kind: 'message', client: 0, node: 0, count: 1, hasKey: true, duration: 118.64892039448023, repeats: 0 },
      { after: 3.856670096516609, kind: 'half-open', node: 2, connection: 'commands', refusedFor: 0 },
      { after: 2.793602315708995, kind: 'move', client: 2, node: 2, ms: 1.5873764113057405 }
    ]
  },
  {
    title: 'a node continues after a pause with little of its lease left',
    setup: { seed: 10000630, lease: 1500, libraries: ['ioredis', 'redis', 'redis'], entries: 1000, latency: 'long', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 2.7382211312651634, kind: 'cut', node: 0, connection: 'subscription', refusedFor: 0 },
      { after: 1.3666201131418347, kind: 'move', client: 1, node: 1, ms: 2.522077789530158 },
      { after: 1.889145154505968, kind: 'half-open', node: 0, connection: 'subscription', refusedFor: 0 },
      { after: 2.442065093666315, kind: 'kill-subscriptions' },
      { after: 0.7430611839517951, kind: 'join', client: 1, node: 0, channel: 'a' },
      { after: 2.1485971063375473, kind: 'broadcast', node: 2, except: undefined },
      { after: 0.746821615844965, kind: 'publish', channel: 'a', node: 0, count: 3, except: 1 },
      { after: 3.954673889093101, kind: 'publish', channel: 'b', node: 0, count: 5, except: 1 },
      { after: 0.04754554480314255, kind: 'join', client: 1, node: 2, channel: 'b' },
      { after: 2.1411084355786443, kind: 'leave', client: 0, node: 0, channel: 'a' },
      { after: 184.0216006617993, kind: 'publish', channel: 'a', node: 2, count: 1, except: undefined },
      { after: 147.0112276263535, kind: 'block', node: 0, connection: 'commands', direction: 'down', ms: 532.6046289131045 },
      { after: 0.1334226354956627, kind: 'pause', node: 2, ms: 941.1157904565334 },
      { after: 1.8705958500504494, kind: 'move', client: 0, node: 0, ms: 1.9774418093729764 },
      { after: 3.011872436851263, kind: 'broadcast', node: 0, except: undefined },
      { after: 3.7552657956257463, kind: 'leave', client: 1, node: 1, channel: 'a' },
      { after: 0.576154881156981, kind: 'broadcast', node: 0, except: 1 },
      { after: 0.2844246765598655, kind: 'move', client: 1, node: 0, ms: 327.35971361398697 },
      { after: 3.62392227165401, kind: 'broadcast', node: 0, except: undefined },
      { after: 3.82358546089381, kind: 'join', client: 1, node: 0, channel: 'b' },
      { after: 61.7021590936929, kind: 'message', client: 1, node: 2, count: 1, hasKey: true, duration: 13.643087399192154, repeats: 0 },
      { after: 1.1392856044694781, kind: 'join', client: 1, node: 1, channel: 'a' },
      { after: 0.7080742046236992, kind: 'emit', client: 0, node: 1, count: 1 },
      { after: 3.2918669087812304, kind: 'message', client: 1, node: 2, count: 1, hasKey: true, duration: 12.094615213572979, repeats: 1 },
      { after: 104.02776692062616, kind: 'message', client: 0, node: 1, count: 1, hasKey: true, duration: 3.9111650120466948, repeats: 1 },
      { after: 157.83872022293508, kind: 'pause', node: 0, ms: 1062.6614266447723 }
    ]
  },
  {
    title: 'a node reads a request after a short pause, when another node has a newer one',
    setup: { seed: 30003032, lease: 2500, libraries: ['redis', 'ioredis', 'ioredis'], entries: 1000, latency: 'medium', clients: 3, isEarly: false, isAbandoned: false },
    steps: [
      { after: 0.9512958182021976, kind: 'pause', node: 0, ms: 349.9337441660464 },
      { after: 0.13524470757693052, kind: 'message', client: 1, node: 2, count: 1, hasKey: true, duration: 4.929867255501449, repeats: 0 },
      { after: 66.99903258122504, kind: 'join', client: 1, node: 2, channel: 'b' },
      { after: 2.1313487393781543, kind: 'move', client: 0, node: 0, ms: 2.6709627569653094 },
      { after: 10.167716583237052, kind: 'publish', channel: 'b', node: 1, count: 1, except: undefined },
      { after: 3.7212212290614843, kind: 'move', client: 1, node: 0, ms: 2.9593711502384394 },
      { after: 59.70209022052586, kind: 'publish', channel: 'b', node: 2, count: 2, except: undefined },
      { after: 1.5267627723515034, kind: 'move', client: 0, node: 1, ms: 1.45612664334476 }
    ]
  },
  {
    title: 'a node receives that a closed session has left its channels, but not that it was closed',
    setup: { seed: 40001965, lease: 1500, libraries: ['redis', 'ioredis', 'redis'], entries: 4, latency: 'medium', clients: 1, isEarly: false, isAbandoned: false },
    steps: [
      { after: 3.978731115348637, kind: 'join', client: 0, node: 2, channel: 'a' },
      { after: 2.3580000745132565, kind: 'broadcast', node: 2, except: 0 },
      { after: 1.2830167766660452, kind: 'join', client: 0, node: 1, channel: 'b' },
      { after: 3.593362808227539, kind: 'close', client: 0, node: 2 },
      { after: 3.1524184495210648, kind: 'emit', client: 0, node: 1, count: 1 },
      { after: 0.9113355800509453, kind: 'restart-redis', ms: 418.81411966867745 }
    ]
  },
  {
    title: 'another node takes the stream of a closed session before its response has started',
    setup: { seed: 1517, lease: 2500, libraries: ['ioredis', 'redis', 'redis'], entries: 1000, latency: 'long', clients: 3, isEarly: false, isAbandoned: false },
    steps: [
      { after: 2.173175375908613, kind: 'message', client: 1, node: 1, count: 1, hasKey: true, duration: 19.620593617670238, repeats: 0 },
      { after: 1.6533126244321465, kind: 'emit', client: 0, node: 2, count: 1 },
      { after: 2.71268427092582, kind: 'move', client: 0, node: 2, ms: 1.6776493275538087 },
      { after: 2.7525223745033145, kind: 'message', client: 0, node: 1, count: 5, hasKey: true, duration: 4.487079353071749, repeats: 0 },
      { after: 1.7247503297403455, kind: 'half-open', node: 2, connection: 'commands', refusedFor: 0 },
      { after: 3.307343560270965, kind: 'message', client: 1, node: 2, count: 3, hasKey: true, duration: 339.436818100512, repeats: 2 },
      { after: 102.01481110416353, kind: 'move', client: 0, node: 0, ms: 1.2045363346114755 },
      { after: 0.1671270402148366, kind: 'move', client: 1, node: 1, ms: 1.0683735776692629 },
      { after: 3.991705727763474, kind: 'message', client: 0, node: 2, count: 1, hasKey: true, duration: 7.576478248462081, repeats: 0 },
      { after: 0.6879996238276362, kind: 'publish', channel: 'b', node: 1, count: 1, except: undefined },
      { after: 3.6406056163832545, kind: 'block', node: 2, connection: 'commands', direction: 'down', ms: 577.7256461977959 },
      { after: 1.4306865418329835, kind: 'update', client: 0, node: 0 },
      { after: 3.0994489463046193, kind: 'update', client: 0, node: 1 },
      { after: 3.9465328492224216, kind: 'publish', channel: 'a', node: 2, count: 1, except: undefined },
      { after: 11.027929605916142, kind: 'message', client: 0, node: 0, count: 1, hasKey: true, duration: 16.64206867478788, repeats: 0 },
      { after: 0.4143683686852455, kind: 'shutdown', node: 2, ms: 312.48010764829814 },
      { after: 1.4466812442988157, kind: 'publish', channel: 'a', node: 1, count: 1, except: undefined },
      { after: 1.3423359161242843, kind: 'block', node: 2, connection: 'subscription', direction: 'down', ms: 176.07051727361977 },
      { after: 3.2653639055788517, kind: 'broadcast', node: 1, except: undefined },
      { after: 1.7199784060940146, kind: 'message', client: 0, node: 2, count: 1, hasKey: true, duration: 15.620166523382068, repeats: 0 },
      { after: 3.1267533721402287, kind: 'move', client: 0, node: 2, ms: 1.7041374896652997 },
      { after: 2.8066772827878594, kind: 'publish', channel: 'a', node: 1, count: 1, except: undefined },
      { after: 2.2445153119042516, kind: 'publish', channel: 'b', node: 1, count: 1, except: undefined },
      { after: 1.0211968626827002, kind: 'close', client: 0, node: 1 },
      { after: 0.1496907901018858, kind: 'kill-subscriptions' }
    ]
  },
  {
    title: 'both connections of a node are half open, the one for commands since its handshake',
    setup: { seed: 60002826, lease: 2500, libraries: ['redis', 'ioredis', 'ioredis'], entries: 1000, latency: 'long', clients: 3, isEarly: false, isAbandoned: false },
    steps: [
      { after: 0.38592036068439484, kind: 'cut', node: 2, connection: 'commands', refusedFor: 0 },
      { after: 118.44125906936824, kind: 'request', client: 2, node: 1 },
      { after: 3.1840159883722663, kind: 'half-open', node: 2, connection: 'commands', refusedFor: 0 },
      { after: 2.9999396400526166, kind: 'half-open', node: 2, connection: 'subscription', refusedFor: 0 }
    ]
  },
  {
    title: 'the reply with which a node has acquired a stream is applied after the one that closed the session',
    setup: { seed: 70000284, lease: 2500, libraries: ['ioredis', 'redis', 'ioredis'], entries: 1000, latency: 'long', clients: 1, isEarly: false, isAbandoned: false },
    steps: [
      { after: 1.8051406936720014, kind: 'cut', node: 1, connection: 'commands', refusedFor: 0 },
      { after: 2.969977792352438, kind: 'move', client: 0, node: 1, ms: 38.02508267108351 },
      { after: 3.7486035777255893, kind: 'broadcast', node: 2, except: undefined },
      { after: 2.701557097956538, kind: 'join', client: 0, node: 1, channel: 'a' },
      { after: 3.2583327861502767, kind: 'restart-redis', ms: 393.99342622607946 },
      { after: 66.89339303411543, kind: 'cut', node: 2, connection: 'subscription', refusedFor: 713.5795886814594 },
      { after: 0.6089895060285926, kind: 'cut', node: 2, connection: 'subscription', refusedFor: 0 },
      { after: 0.11770918872207403, kind: 'pause', node: 0, ms: 339.70447465777397 },
      { after: 1.4491018019616604, kind: 'close', client: 0, node: 1 }
    ]
  },
  {
    title: 'a node closes while it starts a request, and is the last one',
    setup: { seed: 71011489, lease: 1500, libraries: ['redis', 'redis', 'ioredis'], entries: 5, latency: 'medium', clients: 1, isEarly: false, isAbandoned: false },
    steps: [
      { after: 2.824900728650391, kind: 'block', node: 0, connection: 'subscription', direction: 'down', ms: 342.6003732904792 },
      { after: 0.7502997368574142, kind: 'join', client: 0, node: 0, channel: 'a' },
      { after: 0.6522965617477894, kind: 'cut', node: 2, connection: 'subscription', refusedFor: 0 },
      { after: 3.102304495871067, kind: 'update', client: 0, node: 2 },
      { after: 1.7613067831844091, kind: 'broadcast', node: 2, except: 0 },
      { after: 63.281100848689675, kind: 'emit', client: 0, node: 0, count: 3 },
      { after: 189.6603174507618, kind: 'move', client: 0, node: 0, ms: 1.054663420887664 },
      { after: 42.03388295136392, kind: 'join', client: 0, node: 1, channel: 'b' },
      { after: 2.9205954084172845, kind: 'request', client: 0, node: 1 },
      { after: 59.77645376697183, kind: 'move', client: 0, node: 2, ms: 0.2214882276020944 },
      { after: 3.8314363760873675, kind: 'move', client: 0, node: 2, ms: 20.64855326898396 },
      { after: 1.9894465915858746, kind: 'close', client: 0, node: 1 },
      { after: 1.3891997449100018, kind: 'update', client: 0, node: 1 },
      { after: 2.87988871242851, kind: 'request', client: 0, node: 2 },
      { after: 1.2605915069580078, kind: 'broadcast', node: 1, except: undefined },
      { after: 1.1700118593871593, kind: 'message', client: 0, node: 2, count: 1, hasKey: false, duration: 74.49875883758068, repeats: 0 },
      { after: 3.327379330061376, kind: 'half-open', node: 2, connection: 'subscription', refusedFor: 0 },
      { after: 169.8042542207986, kind: 'publish', channel: 'b', node: 1, count: 1, except: 0 },
      { after: 2.2459722384810448, kind: 'move', client: 0, node: 1, ms: 189.5367349497974 },
      { after: 1.5565121890977025, kind: 'request', client: 0, node: 2 }
    ]
  },
  {
    title: 'both connections of a node are half open until its lease has ended',
    setup: { seed: 95000994, lease: 2500, libraries: ['ioredis', 'ioredis', 'ioredis'], entries: 1000, latency: 'medium', clients: 1, isEarly: false, isAbandoned: false, resumeTimeout: 326 },
    steps: [
      { after: 3.6444073664024472, kind: 'half-open', node: 1, connection: 'commands', refusedFor: 0 },
      { after: 1.7919179806485772, kind: 'half-open', node: 1, connection: 'subscription', refusedFor: 0 }
    ]
  },
  {
    title: 'a node closes while the hooks of a close run',
    setup: { seed: 942, lease: 2500, libraries: ['ioredis', 'redis', 'ioredis'], entries: 1000, latency: 'medium', clients: 2, isEarly: false, isAbandoned: false },
    steps: [
      { after: 2.961318889632821, kind: 'emit', client: 1, node: 1, count: 1 },
      { after: 1.8768377397209406, kind: 'join', client: 0, node: 2, channel: 'b' },
      { after: 3.5668846694752574, kind: 'close', client: 0, node: 2 },
      { after: 13.283338863402605, kind: 'join', client: 0, node: 2, channel: 'b' },
      { after: 2.193793906830251, kind: 'restart-redis', ms: 859.6981117688119 },
      { after: 0.2722116429358721, kind: 'shutdown', node: 2, ms: 436.7284864420071 }
    ]
  },
  {
    title: 'a node that has handled a message closes without a connection to Redis',
    setup: { seed: 1, lease: 6000, libraries: ['ioredis', 'redis', 'redis'], entries: 1000, latency: 'short', clients: 1, isEarly: false, isAbandoned: false },
    steps: [
      { after: 1, kind: 'message', client: 0, node: 1, count: 1, hasKey: true, duration: 100, repeats: 1 },
      { after: 50, kind: 'cut', node: 1, connection: 'commands', refusedFor: 2200 },
      { after: 10, kind: 'shutdown', node: 1, ms: 100 }
    ]
  },
  {
    title: 'a session whose stream ends long after the last heartbeat does not expire early',
    setup: { seed: 98002771, lease: 2500, libraries: ['ioredis', 'redis', 'ioredis'], entries: 1000, latency: 'short', clients: 2, isEarly: false, isAbandoned: false, resumeTimeout: 1772 },
    steps: [
      { after: 153.0639525037259, kind: 'message', client: 1, node: 0, count: 1, hasKey: true, duration: 756.1612596735358, repeats: 0 },
      { after: 189.40121387131512, kind: 'move', client: 1, node: 2, ms: 0.1516243361402303 },
      { after: 3.0609298329800367, kind: 'join', client: 1, node: 1, channel: 'a' },
      { after: 1.3294919785112143, kind: 'abandon', client: 1 }
    ]
  },
  {
    title: 'a node closes while its command connection is half open, and its message is handled again',
    setup: { seed: 1, lease: 6000, libraries: ['redis', 'redis', 'redis'], entries: 1000, latency: 'short', clients: 1, isEarly: false, isAbandoned: false },
    steps: [
      { after: 1, kind: 'message', client: 0, node: 0, count: 1, hasKey: true, duration: 800, repeats: 1 },
      { after: 50, kind: 'shutdown', node: 0, ms: 300 },
      { after: 4, kind: 'half-open', node: 0, connection: 'commands', refusedFor: 0 }
    ]
  },
  {
    title: 'changes of channels arrive after the reply to a close',
    setup: { seed: 98000117, lease: 2500, libraries: ['ioredis', 'redis', 'ioredis'], entries: 1000, latency: 'long', clients: 1, isEarly: false, isAbandoned: false, isWorkLimited: true },
    steps: [
      { after: 3.240983515046537, kind: 'emit', client: 0, node: 1, count: 1 },
      { after: 2.3583533065393567, kind: 'join', client: 0, node: 2, channel: 'a' },
      { after: 1.5726446527987719, kind: 'message', client: 0, node: 2, count: 1, hasKey: true, duration: 752.7630195021629, repeats: 1, checks: 2012.5155075220391 },
      { after: 194.4351974874735, kind: 'join', client: 0, node: 2, channel: 'a' },
      { after: 1.9071582974866033, kind: 'broadcast', node: 0, except: undefined },
      { after: 2.4059230647981167, kind: 'publish', channel: 'b', node: 0, count: 1, except: undefined },
      { after: 2.4176595071330667, kind: 'publish', channel: 'a', node: 2, count: 1, except: undefined },
      { after: 2.7593290833756328, kind: 'emit', client: 0, node: 1, count: 5 },
      { after: 14.112059911713004, kind: 'kill-subscriptions' },
      { after: 3.136396155692637, kind: 'leave', client: 0, node: 2, channel: 'a' },
      { after: 3.1775707118213177, kind: 'publish', channel: 'a', node: 0, count: 1, except: undefined },
      { after: 2.422758812084794, kind: 'emit', client: 0, node: 1, count: 1 },
      { after: 123.10008462518454, kind: 'publish', channel: 'b', node: 2, count: 1, except: undefined },
      { after: 3.3541321493685246, kind: 'move', client: 0, node: 1, ms: 2.673202589387074 },
      { after: 0.4598038187250495, kind: 'update', client: 0, node: 2 },
      { after: 3.5264660734683275, kind: 'move', client: 0, node: 1, ms: 67.23316991701722 },
      { after: 3.482012768276036, kind: 'join', client: 0, node: 1, channel: 'a' },
      { after: 2.7514140447601676, kind: 'close', client: 0, node: 1 },
      { after: 1.636980107985437, kind: 'block', node: 1, connection: 'commands', direction: 'down', ms: 182.3082127328962 }
    ]
  },
  {
    title: 'the session of an earlier request for a stream is found later',
    setup: { seed: 98028634, lease: 2500, libraries: ['redis', 'redis', 'ioredis'], entries: 1000, latency: 'long', clients: 3, isEarly: false, isAbandoned: false, isWorkLimited: false },
    steps: [
      { after: 2.1082214368507266, kind: 'join', client: 0, node: 2, channel: 'a' },
      { after: 1.7939129769802094, kind: 'restart-redis', ms: 2094.668810488656 },
      { after: 3.81878743506968, kind: 'emit', client: 0, node: 0, count: 5 },
      { after: 2.319323075003922, kind: 'shutdown', node: 0, ms: 232.0466977544129 },
      { after: 0.4635048797354102, kind: 'block', node: 2, connection: 'subscription', direction: 'down', ms: 405.4807611973956 },
      { after: 0.37108251824975014, kind: 'message', client: 0, node: 0, count: 1, hasKey: true, duration: 575.2273200079799, repeats: 0, checks: 499.4177370099351 },
      { after: 3.506462731398642, kind: 'message', client: 2, node: 1, count: 1, hasKey: false, duration: 115.5388718470931, repeats: 0 },
      { after: 3.020236904732883, kind: 'block', node: 0, connection: 'commands', direction: 'up', ms: 491.6883414797485 },
      { after: 3.0865339962765574, kind: 'block', node: 0, connection: 'commands', direction: 'up', ms: 38.39185053482652 },
      { after: 2.2948714941740036, kind: 'leave', client: 0, node: 1, channel: 'a' },
      { after: 3.187272297218442, kind: 'pause', node: 0, ms: 756.1575018242002 },
      { after: 3.3580421591177583, kind: 'message', client: 0, node: 0, count: 1, hasKey: true, duration: 5.228029563091695, repeats: 2 },
      { after: 60.811419785022736, kind: 'half-open', node: 0, connection: 'commands', refusedFor: 0 },
      { after: 2.3958379300311208, kind: 'cut', node: 2, connection: 'subscription', refusedFor: 0 },
      { after: 3.2596073988825083, kind: 'publish', channel: 'b', node: 2, count: 2, except: undefined },
      { after: 3.3503832956776023, kind: 'crash', node: 1, ms: 203.0797250336036 },
      { after: 3.7199450647458434, kind: 'restart-redis', ms: 178.043749993667 },
      { after: 167.33171809464693, kind: 'block', node: 0, connection: 'subscription', direction: 'down', ms: 637.137562148273 },
      { after: 164.85976330004632, kind: 'request', client: 0, node: 1 },
      { after: 3.653595489449799, kind: 'message', client: 0, node: 0, count: 1, hasKey: true, duration: 14.485535364598036, repeats: 1, refused: 0 },
      { after: 0.5369803057983518, kind: 'move', client: 0, node: 2, ms: 0.7037697457708418 },
      { after: 70.64934698864818, kind: 'cut', node: 2, connection: 'commands', refusedFor: 914.91888823919 }
    ]
  },
  {
    title: 'the reply to the end of an expired session is lost, and other nodes send their heartbeats first',
    setup: { seed: 98051783, lease: 6000, libraries: ['redis', 'redis', 'ioredis'], entries: 1000, latency: 'long', clients: 1, isEarly: false, isAbandoned: false, resumeTimeout: 560, isWorkLimited: false },
    steps: [
      { after: 17.189076589420438, kind: 'broadcast', node: 1, except: undefined },
      { after: 0.7377880308777094, kind: 'block', node: 1, connection: 'commands', direction: 'down', ms: 2401.5907000005245 },
      { after: 2.872596292756498, kind: 'publish', channel: 'a', node: 1, count: 1, except: undefined },
      { after: 3.304407022893429, kind: 'block', node: 2, connection: 'commands', direction: 'up', ms: 6934.75166587159 },
      { after: 3.053042429499328, kind: 'shutdown', node: 0, ms: 199.36986675020307 },
      { after: 3.524011249653995, kind: 'join', client: 0, node: 1, channel: 'a' },
      { after: 32.299714878201485, kind: 'join', client: 0, node: 2, channel: 'a' },
      { after: 182.65613035857677, kind: 'leave', client: 0, node: 0, channel: 'b' },
      { after: 116.40110243111849, kind: 'join', client: 0, node: 0, channel: 'a' },
      { after: 170.91792345792055, kind: 'join', client: 0, node: 1, channel: 'b' },
      { after: 176.5064360871911, kind: 'publish', channel: 'b', node: 1, count: 3, except: undefined },
      { after: 136.6711638495326, kind: 'restart-redis', ms: 1946.7835863307118 }
    ]
  },
  {
    title: 'a session expires while its node has no lease, before its client finds out',
    setup: { seed: 99013147, lease: 2500, libraries: ['redis', 'ioredis', 'redis'], entries: 1000, latency: 'short', clients: 3, isEarly: false, isAbandoned: false, resumeTimeout: 375, isWorkLimited: true },
    steps: [
      { after: 0.2131000654771924, kind: 'crash', node: 1, ms: 401.52043872512877 },
      { after: 3.522916848771274, kind: 'block', node: 1, connection: 'subscription', direction: 'up', ms: 3057.6994732255116 },
      { after: 0.8321907296776772, kind: 'message', client: 0, node: 2, count: 1, hasKey: true, duration: 15.071075450628996, repeats: 1 },
      { after: 2.4195539010688663, kind: 'request', client: 2, node: 0 },
      { after: 0.6048210887238383, kind: 'block', node: 2, connection: 'commands', direction: 'down', ms: 969.2249196767807 },
      { after: 2.472841548733413, kind: 'message', client: 2, node: 1, count: 4, hasKey: true, duration: 15.897947660647333, repeats: 0, checks: 110.94356013927609 },
      { after: 3.6662449818104506, kind: 'broadcast', node: 1, except: undefined },
      { after: 0.7549693081527948, kind: 'request', client: 2, node: 1 },
      { after: 159.68499914743006, kind: 'cut', node: 2, connection: 'commands', refusedFor: 2629.3323120335117 },
      { after: 2.6784678706899285, kind: 'block', node: 1, connection: 'commands', direction: 'down', ms: 619.5305114332587 },
      { after: 2.8414350487291813, kind: 'abandon', client: 2 },
      { after: 3.7933484548702836, kind: 'request', client: 2, node: 1 },
      { after: 70.53038976155221, kind: 'block', node: 0, connection: 'commands', direction: 'up', ms: 422.42601501755416 },
      { after: 1.800003208220005, kind: 'half-open', node: 1, connection: 'subscription', refusedFor: 0 },
      { after: 0.8047427330166101, kind: 'cut', node: 2, connection: 'subscription', refusedFor: 0 },
      { after: 0.5597358737140894, kind: 'block', node: 0, connection: 'commands', direction: 'down', ms: 930.7935498654842 },
      { after: 3.1768725300207734, kind: 'half-open', node: 1, connection: 'subscription', refusedFor: 0 },
      { after: 1.5498085645958781, kind: 'join', client: 0, node: 1, channel: 'a' },
      { after: 1.704713873565197, kind: 'broadcast', node: 1, except: 2 },
      { after: 0.8125495119020343, kind: 'block', node: 2, connection: 'subscription', direction: 'down', ms: 572.6194746047258 },
      { after: 2.0765253622084856, kind: 'block', node: 0, connection: 'commands', direction: 'down', ms: 450.57223725132644 },
      { after: 2.4251343589276075, kind: 'move', client: 1, node: 1, ms: 2.751735004596412 },
      { after: 3.101737756282091, kind: 'move', client: 0, node: 2, ms: 8.805066114291549 },
      { after: 128.9472781238146, kind: 'block', node: 1, connection: 'commands', direction: 'down', ms: 899.0568942390382 },
      { after: 144.7972774738446, kind: 'kill-subscriptions' },
      { after: 8.111899998039007, kind: 'request', client: 1, node: 0 },
      { after: 133.99250014917925, kind: 'join', client: 0, node: 0, channel: 'b' },
      { after: 111.60705793881789, kind: 'half-open', node: 2, connection: 'commands', refusedFor: 0 }
    ]
  },
  {
    title: 'the last reader of a channel leaves before the subscription is confirmed, and comes back before it is removed',
    setup: { seed: 99053086, lease: 2500, libraries: ['redis', 'redis', 'redis'], entries: 1000, latency: 'long', clients: 3, isEarly: false, isAbandoned: false, isWorkLimited: false },
    steps: [
      { after: 3.699817950837314, kind: 'emit', client: 1, node: 2, count: 1 },
      { after: 1.2222373420372605, kind: 'join', client: 1, node: 2, channel: 'a' },
      { after: 2.535090428777039, kind: 'move', client: 2, node: 0, ms: 37.96114702709019 },
      { after: 154.9401924945414, kind: 'leave', client: 1, node: 0, channel: 'b' },
      { after: 2.371547929942608, kind: 'broadcast', node: 1, except: undefined },
      { after: 133.49595610052347, kind: 'update', client: 1, node: 1 },
      { after: 2.0823578061535954, kind: 'block', node: 0, connection: 'subscription', direction: 'up', ms: 407.7845114469528 },
      { after: 1.7991318264976144, kind: 'move', client: 1, node: 0, ms: 58.05698083713651 }
    ]
  },
  {
    title: 'a close is executed, the connection is lost, and ioredis sends it again to a Redis that has lost its scripts',
    setup: { seed: 99495149, lease: 6000, libraries: ['redis', 'ioredis', 'ioredis'], entries: 1000, latency: 'long', clients: 1, isEarly: false, isAbandoned: false, resumeTimeout: 1702, isWorkLimited: false },
    steps: [
      { after: 0.5017594769597054, kind: 'update', client: 0, node: 2 },
      { after: 29.197171377018094, kind: 'close', client: 0, node: 2 },
      { after: 3.3024773010984063, kind: 'leave', client: 0, node: 2, channel: 'b' },
      { after: 5.2749942522495985, kind: 'pause', node: 2, ms: 1090.1457058638334 },
      { after: 179.36572725884616, kind: 'join', client: 0, node: 2, channel: 'b' },
      { after: 2.898414310067892, kind: 'restart-redis', ms: 1605.3505961969495 }
    ]
  },
  {
    title: 'a client opens a new session while the hooks of its expired session wait',
    setup: { seed: 99831082, lease: 2500, libraries: ['ioredis', 'redis', 'redis'], entries: 5, latency: 'long', clients: 2, isEarly: false, isAbandoned: false, resumeTimeout: 692, isWorkLimited: true },
    steps: [
      { after: 109.19637610204518, kind: 'move', client: 1, node: 0, ms: 0.5705990321002901 },
      { after: 0.8081054277718067, kind: 'broadcast', node: 1, except: undefined, latest: 'key' },
      { after: 0.3348398646339774, kind: 'cut', node: 2, connection: 'commands', refusedFor: 0 },
      { after: 2.9355211993679404, kind: 'abandon', client: 0 },
      { after: 60.22408679127693, kind: 'block', node: 1, connection: 'commands', direction: 'up', ms: 888.2682564388961 },
      { after: 68.10556510463357, kind: 'emit', client: 1, node: 1, count: 1, latest: true },
      { after: 2.706401235423982, kind: 'leave', client: 0, node: 2, channel: 'b' },
      { after: 64.02697768062353, kind: 'move', client: 0, node: 1, ms: 475.7777649210766 },
      { after: 3.781355888582766, kind: 'join', client: 1, node: 1, channel: 'a' },
      { after: 2.372575835324824, kind: 'publish', channel: 'b', node: 1, count: 1, except: undefined },
      { after: 1.745709653943777, kind: 'publish', channel: 'a', node: 1, count: 1, except: 0 },
      { after: 3.591084660962224, kind: 'publish', channel: 'b', node: 1, count: 1, except: undefined, latest: 'key' },
      { after: 2.51517244707793, kind: 'move', client: 1, node: 1, ms: 131.19630422443151 },
      { after: 3.156775531359017, kind: 'leave', client: 0, node: 1, channel: 'b' },
      { after: 1.13126615062356, kind: 'request', client: 0, node: 0 },
      { after: 1.3537624422460794, kind: 'broadcast', node: 1, except: undefined },
      { after: 0.45507961325347424, kind: 'message', client: 1, node: 1, count: 1, hasKey: false, duration: 13.346664718352258, repeats: 1 },
      { after: 2.933302955701947, kind: 'leave', client: 0, node: 1, channel: 'a' },
      { after: 88.49015759415926, kind: 'join', client: 0, node: 0, channel: 'a' },
      { after: 41.24915107749403, kind: 'join', client: 0, node: 0, channel: 'a' },
      { after: 1.0381468527019024, kind: 'join', client: 0, node: 1, channel: 'a' },
      { after: 229.58857972957196, kind: 'restart-redis', ms: 43.353009382262826 }
    ]
  }
]
