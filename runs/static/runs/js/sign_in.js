// The way to the site's sign-in page and back.

/** The address of the sign-in page `signIn` that leads back to this page, by ?next=. */
export function signInAddress(signIn) {
  const address = new URL(signIn, location.href);
  const isElsewhere = address.origin !== location.origin;
  address.searchParams.set("next", isElsewhere ? location.href : location.pathname + location.search + location.hash);
  return isElsewhere ? address.href : address.pathname + address.search;
}
