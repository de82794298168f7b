declare module 'react-refresh/runtime' {
  const runtime: {
    injectIntoGlobalHook: (window: Window) => void
    register: (component: unknown, id: string) => void
    performReactRefresh: () => void
  }
  export default runtime
}
