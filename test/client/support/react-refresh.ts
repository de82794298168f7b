import runtime from 'react-refresh/runtime'

runtime.injectIntoGlobalHook(window)

/** Registers a component and runs Fast Refresh, as the tools do after an edit of its module. */
function update<Props> (component: (props: Props) => unknown): void {
  // The new version of the component is another function.
  runtime.register(component, 'component')
  runtime.register((props: Props) => component(props), 'component')
  runtime.performReactRefresh()
}

export default { update }
