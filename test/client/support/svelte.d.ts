declare module '*.svelte' {
  import type { Component } from 'svelte'

  const component: Component<{ url: { readonly current: string | null } }>
  export default component
}
