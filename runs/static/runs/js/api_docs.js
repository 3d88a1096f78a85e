// Swagger UI for the API's OpenAPI document. Its bundle has run before, and defines SwaggerUIBundle.
import { csrfHeaders } from "./http.js";

SwaggerUIBundle({
  url: document.getElementById("swagger-ui").dataset.document,
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  requestInterceptor(request) {
    if (request.method && request.method !== "GET") Object.assign(request.headers, csrfHeaders());
    return request;
  },
});
