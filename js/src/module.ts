/** JavaScript that comes as text, evaluated as a module of its own. */

export async function imported(...source: string[]): Promise<unknown> {
  const url = URL.createObjectURL(new Blob(source, { type: "text/javascript" }));
  try {
    return ((await import(/* @vite-ignore */ url)) as { default: unknown }).default;
  } finally {
    URL.revokeObjectURL(url);
  }
}
