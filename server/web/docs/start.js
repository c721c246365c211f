SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  tryItOutEnabled: false, presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout"});
