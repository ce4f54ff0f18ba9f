// Greets whoever asks. Every request has a fresh instance, so nothing is kept from one to the next.
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
    const url = new URL(request.url);
    switch (url.pathname) {
        case "/":
            return Response.json({ hello: url.searchParams.get("name") ?? "world" });
        case "/upper":
            return new Response((await request.text()).toUpperCase());
        default:
            return new Response("not found\n", { status: 404 });
    }
}
