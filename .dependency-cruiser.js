// Rules for imports between the modules of `lib`, types included.

/** Modules below a folder that its files may not import. */
const notFrom = (folder, ...above) => ({
  name: `${folder}-imports-downwards`,
  comment: `Imports point downwards only: ${folder} must not depend on ${above.join(', ')}.`,
  severity: 'error',
  from: { path: `^lib/${folder}/` },
  to: { path: `^lib/(${above.join('|')})/` }
})

export default {
  forbidden: [
    { name: 'no-cycles', comment: 'Modules in a cycle can only be understood together.', severity: 'error', from: {}, to: { circular: true } },
    notFrom('wire', 'log', 'stream', 'store', 'sessions', 'routes', 'client'),
    notFrom('log', 'stream', 'store', 'sessions', 'routes', 'client'),
    notFrom('stream', 'store', 'sessions', 'routes', 'client'),
    notFrom('store', 'sessions', 'routes', 'client'),
    notFrom('sessions', 'routes', 'client'),
    notFrom('routes', 'client'),
    notFrom('client', 'wire', 'log', 'stream', 'store', 'sessions', 'routes')
  ],
  options: { tsPreCompilationDeps: true, tsConfig: { fileName: 'tsconfig.json' }, doNotFollow: { path: 'node_modules' } }
}
