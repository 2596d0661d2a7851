/** JavaScript that arrives as text, evaluated as a module once a page. */

/** What was made under this name and key on this page, or is made now; failures are retried. */
export function onceAPage<T>(
  name: string,
  key: string,
  make: () => Promise<T>,
): Promise<T> {
  const page = globalThis as { [made: symbol]: Map<string, Promise<T>> | undefined };
  const symbol = Symbol.for(`cka_notebook.${name}`);
  const all = page[symbol] ?? new Map<string, Promise<T>>();
  page[symbol] = all;
  const known = all.get(key);
  if (known) return known;
  const promise = make();
  all.set(key, promise);
  promise.catch(() => all.delete(key));
  return promise;
}

export async function imported(...source: string[]): Promise<unknown> {
  const url = URL.createObjectURL(new Blob(source, { type: "text/javascript" }));
  try {
    return ((await import(/* @vite-ignore */ url)) as { default: unknown }).default;
  } finally {
    URL.revokeObjectURL(url);
  }
}
