// Rules for imports between the modules of `lib`, including imports of types.

/** The rule that forbids imports from a folder to folders above it. */
const importsDownwards = (folder, ...above) => ({
  name: `${folder}-imports-downwards`,
  comment: `Imports point downwards only: ${folder} must not depend on ${above.join(', ')}.`,
  severity: 'error',
  from: { path: `^lib/${folder}/` },
  to: { path: `^lib/(${above.join('|')})/` }
})

export default {
  forbidden: [
    { name: 'no-cycles', comment: 'Modules in a cycle can only be understood together.', severity: 'error', from: {}, to: { circular: true } },
    importsDownwards('wire', 'log', 'stream', 'store', 'runs', 'sessions', 'routes', 'mcp', 'client'),
    importsDownwards('log', 'stream', 'store', 'runs', 'sessions', 'routes', 'mcp', 'client'),
    importsDownwards('stream', 'store', 'runs', 'sessions', 'routes', 'mcp', 'client'),
    importsDownwards('store', 'runs', 'sessions', 'routes', 'mcp', 'client'),
    importsDownwards('runs', 'sessions', 'routes', 'mcp', 'client'),
    importsDownwards('sessions', 'routes', 'mcp', 'client'),
    importsDownwards('routes', 'mcp', 'client'),
    importsDownwards('client', 'wire', 'log', 'stream', 'store', 'runs', 'sessions', 'routes', 'mcp')
  ],
  options: { tsPreCompilationDeps: true, tsConfig: { fileName: 'tsconfig.json' }, doNotFollow: { path: 'node_modules' } }
}
